"""Rows of any customer schema: written, compared, read, summed and verified."""

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pandas as pd
import psycopg
import pytest
from psycopg import sql

from churn_platform.database import batch_hours, churn_predictions, high_risk_customers, metrics, summary, verification
from churn_platform.database.averages import averages
from churn_platform.database.batch_hours import HourSums
from churn_platform.database.batch_rows import rows_of_batch
from churn_platform.database.bulk import Column
from churn_platform.database.connections import connect
from churn_platform.database.prediction_columns import PredictionTable, prediction_table
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.database.conftest import Database
from churn_platform_tests.database.customer_rows import (
    BATCH,
    COUNT,
    HOUR,
    event_ids,
    prediction_rows,
    scorable_customers,
    scores,
)

THRESHOLD = 0.7


@pytest.fixture
def connection(any_database: Database) -> Iterator[psycopg.Connection]:
    """In a transaction that is rolled back."""
    with connect(any_database.writer, application_name="test") as connection:
        yield connection
        connection.rollback()


@pytest.fixture(scope="module")
def customers(any_schema: CustomerSchema) -> pd.DataFrame:
    return scorable_customers(any_schema)


@pytest.fixture(scope="module")
def table(any_schema: CustomerSchema) -> PredictionTable:
    return prediction_table(any_schema)


def stored(connection: psycopg.Connection, table: PredictionTable) -> pd.DataFrame:
    rows = connection.execute("select * from churn_predictions order by kafka_offset").fetchall()
    return pd.DataFrame(rows, columns=[column.name for column in table.columns])


def scans(connection: psycopg.Connection) -> int:
    """How many times the transaction has read the whole table."""
    row = connection.execute(
        "select seq_scan from pg_stat_xact_user_tables where relname = 'churn_predictions'"
    ).fetchone()
    return 0 if row is None else int(row[0])


def sums_of(schema: CustomerSchema, customers: pd.DataFrame) -> list[HourSums]:
    """What a commit adds, per hour."""
    hours = np.arange(COUNT) * 30 // 3600
    found = []
    for hour in np.unique(hours):
        of_hour = hours == hour
        numbers = {column.column: customers[column.name][of_hour].astype(float) for column in schema.averaged}
        found.append(
            HourSums(
                hour_timestamp=HOUR + timedelta(hours=int(hour)),
                total_predictions=int(of_hour.sum()),
                churn_count=int((scores()[of_hour] >= 0.5).sum()),
                risk_sum=float(scores()[of_hour].astype(float).sum()),
                high_risk_count=int((scores()[of_hour].astype(float) >= THRESHOLD).sum()),
                averages={each.column: float(numbers[each.column].sum()) for each in averages(schema)},
                known={
                    each.column: int(numbers[each.column].notna().sum())
                    for each in averages(schema)
                    if each.may_be_missing
                },
            )
        )
    return found


def test_rows_arrive_as_they_were_given(
    connection: psycopg.Connection, table: PredictionTable, customers: pd.DataFrame
) -> None:
    churn_predictions.insert_new(connection, prediction_rows(table, customers))

    found = stored(connection, table)
    assert found["customer_id"].tolist() == customers[table.schema.id].tolist()
    for column in table.customer:
        given = customers[column.field]
        for value, stored_value in zip(given, found[column.name], strict=True):
            if pd.isna(value):
                assert pd.isna(stored_value), column.name
            elif isinstance(value, pd.Timestamp):
                assert value.date() == stored_value, column.name
            else:
                assert stored_value == (value if isinstance(value, str) else pytest.approx(value)), column.name


def test_the_same_events_are_duplicates_and_others_with_their_ids_are_conflicts(
    connection: psycopg.Connection, table: PredictionTable, customers: pd.DataFrame
) -> None:
    given = Column("smallint", np.ones(COUNT, np.int16))
    churn_predictions.insert_new(connection, prediction_rows(table, customers))
    again = prediction_rows(table, customers, batch="20261128T000000001Z")

    with pytest.raises(churn_predictions.KnownEventError), connection.transaction():
        churn_predictions.insert_new(connection, again)
    assert churn_predictions.insert_or_compare(connection, table, again, timestamp_given=given) == (set(), {})

    for name in table.schema.inputs:
        changed = customers.assign(**{name: customers[name].to_numpy()[::-1]})
        other = prediction_rows(table, changed, batch="20261128T000000002Z")
        _, conflicts = churn_predictions.insert_or_compare(connection, table, other, timestamp_given=given)
        assert conflicts, name
        assert set(conflicts.values()) <= {(BATCH, (0, offset)) for offset in range(COUNT)}


def test_high_risk_rows_have_the_summary_and_wait_for_their_reasons(
    connection: psycopg.Connection, table: PredictionTable, customers: pd.DataFrame
) -> None:
    churn_predictions.insert_new(connection, prediction_rows(table, customers))
    risky = [str(event_id) for event_id, score in zip(event_ids(), scores(), strict=True) if score >= THRESHOLD]

    high_risk_customers.add(connection, table, risky)
    waiting = high_risk_customers.unexplained(connection, table, limit=1_000, batch=BATCH, excluded_versions=[])
    rows = rows_of_batch(connection, table, BATCH, limit=3)

    assert {str(each.event_id) for each in waiting} == set(risky)
    assert set(waiting[0].columns) == set(table.schema.inputs)
    assert rows.high_risk == len(risky)
    for listed in (*rows.first, *rows.riskiest, *summary.riskiest_customers(connection, table, limit=3)):
        assert {column.name for column in table.summary} <= set(listed)
    assert rows.riskiest[0]["customer_id"] == customers[table.schema.id].iloc[-1]


def test_what_was_published_is_read_in_the_order_of_messages(
    connection: psycopg.Connection, table: PredictionTable, customers: pd.DataFrame
) -> None:
    connection.execute("insert into stream_topics (topic_id, topic) values ('id', 'events')")
    connection.execute("insert into stream_batches (batch) values (%s)", (BATCH,))
    connection.execute("insert into stream_ranges values (%s, 'id', 0, 0, %s)", (BATCH, COUNT))
    churn_predictions.insert_new(connection, prediction_rows(table, customers))

    rows = churn_predictions.published_columns(connection, table, "id", {0: range(5, 8)})

    names = [column.name for column in table.published]
    assert [dict(zip(names, row, strict=True))["customer_id"] for row in rows] == customers[table.schema.id][
        5:8
    ].tolist()


def test_of_two_batches_the_rows_of_a_partition_are_in_the_order_of_its_offsets(
    connection: psycopg.Connection, table: PredictionTable, customers: pd.DataFrame
) -> None:
    connection.execute("insert into stream_topics (topic_id, topic) values ('id', 'events')")
    connection.execute("insert into stream_batches (batch) values (%s), ('later')", (BATCH,))
    insert = "insert into stream_ranges values (%s, 'id', %s, %s, %s, %s)"
    # Of the later batch, another partition has lower offsets than those of the first batch.
    connection.cursor().executemany(
        insert, [(BATCH, 0, 5, 8, 8), ("later", 0, 8, COUNT, None), ("later", 1, 0, 9, None)]
    )
    churn_predictions.insert_new(connection, prediction_rows(table, customers))
    connection.execute("update churn_predictions set batch = 'later' where kafka_offset >= 8")

    rows = churn_predictions.published_columns(connection, table, "id", {1: range(9), 0: range(5, COUNT)})

    offset = [column.name for column in table.published].index("kafka_offset")
    assert [row[offset] for row in rows] == list(range(5, COUNT))


def test_what_was_published_is_read_without_the_rows_of_other_batches(
    connection: psycopg.Connection, table: PredictionTable, customers: pd.DataFrame
) -> None:
    connection.execute("insert into stream_topics (topic_id, topic) values ('id', 'events')")
    connection.execute("insert into stream_batches (batch) values (%s), ('older')", (BATCH,))
    insert = "insert into stream_ranges values (%s, 'id', 0, %s, %s, %s)"
    connection.cursor().executemany(insert, [("older", 0, 5, 5), (BATCH, 5, COUNT, None)])
    churn_predictions.insert_new(connection, prediction_rows(table, customers))
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.written)
    others = {"event_id": sql.SQL("gen_random_uuid()"), "batch": sql.SQL("'of ' || number")}
    values = sql.SQL(", ").join(others.get(each.name, sql.Identifier(each.name)) for each in table.written)
    grow = sql.SQL("insert into churn_predictions ({}) select {} from churn_predictions, generate_series(1, %s) number")
    connection.execute(grow.format(names, values), (40_000 // COUNT,))

    before = scans(connection)
    rows = churn_predictions.published_columns(connection, table, "id", {0: range(COUNT), 1: range(9)})

    assert len(rows) == COUNT - 5  # of the older batch there are none
    assert scans(connection) == before


def test_sums_metrics_and_predictions_agree_until_one_of_them_is_changed(
    connection: psycopg.Connection, any_schema: CustomerSchema, table: PredictionTable, customers: pd.DataFrame
) -> None:
    connection.execute("insert into stream_batches (batch, high_risk_threshold) values (%s, %s)", (BATCH, THRESHOLD))
    churn_predictions.insert_new(connection, prediction_rows(table, customers))
    sums = sums_of(any_schema, customers)
    batch_hours.add_sums(connection, any_schema, batch=BATCH, hours=sums)
    batch_hours.mark_dirty(connection, [each.hour_timestamp for each in sums])
    hourly = metrics.hourly_figures(connection, any_schema, HOUR, HOUR + timedelta(days=2))
    store(connection, "churn_metrics_hourly", hourly)
    daily = metrics.daily_figures(hourly, any_schema)
    store(connection, "churn_metrics_daily", daily)

    def wrong() -> list[int]:
        return [
            verification.compare_batch_hours(connection, any_schema, examples=3).wrong,
            verification.compare_hours(connection, any_schema, examples=3).wrong,
            verification.compare_days(connection, any_schema, examples=3).wrong,
        ]

    assert wrong() == [0, 0, 0]
    for each, column in zip(averages(any_schema), any_schema.averaged, strict=True):
        whole = customers[column.name].astype(float)
        weights = daily[each.count if each.may_be_missing else "total_predictions"]
        assert (daily[each.average] * weights).sum() == pytest.approx(whole.sum())
    for each in averages(any_schema):
        for changed, place in ((each.sum, 0), (each.average, 1), (each.average, 2)):
            name = ("churn_batch_hours", "churn_metrics_hourly", "churn_metrics_daily")[place]
            with connection.transaction(force_rollback=True):
                identifiers = psycopg.sql.Identifier(name), psycopg.sql.Identifier(changed)
                connection.execute(psycopg.sql.SQL("update {0} set {1} = {1} * 2 + 1").format(*identifiers))
                assert wrong()[place] > 0, (name, changed)


def store(connection: psycopg.Connection, name: str, figures: pd.DataFrame) -> None:
    """Store metrics as the IO manager does."""
    columns = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, figures.columns))
    statement = psycopg.sql.SQL("copy {} ({}) from stdin").format(psycopg.sql.Identifier(name), columns)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in figures.astype(object).mask(figures.isna(), None).itertuples(index=False, name=None):
            copy.write_row(row)
