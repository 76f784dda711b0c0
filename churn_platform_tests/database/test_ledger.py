"""A commit in the ledger: one statement that changes all tables, or nothing."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import psycopg
import pytest

from churn_platform.database import churn_predictions, ledger, stream_batches, stream_positions
from churn_platform.database.bulk import BinaryArray, Rows
from churn_platform.database.churn_predictions import KnownEventError, TableChangedError
from churn_platform.database.connections import connect
from churn_platform.database.exceptions import LedgerConflictError
from churn_platform.database.ledger import Advance, Heartbeat
from churn_platform.database.prediction_columns import PredictionTable, prediction_table
from churn_platform.database.stream_positions import LastRecord
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.database.conftest import Database
from churn_platform_tests.database.customer_rows import (
    BATCH,
    COUNT,
    event_ids,
    prediction_rows,
    scorable_customers,
    scores,
)
from churn_platform_tests.database.test_customer_tables import THRESHOLD, sums_of

TOPIC_ID = "id"
NEXT_BATCH = "20261128T000000001Z"
CHANGED = ("churn_predictions", "high_risk_customers", "churn_batch_hours", "dirty_hours", "stream_ranges")


class Ledger:
    """A stream that has read nothing yet, and commits of its first COUNT events."""

    def __init__(self, connection: psycopg.Connection, schema: CustomerSchema) -> None:
        self.connection = connection
        self.table: PredictionTable = prediction_table(schema)
        self.customers: pd.DataFrame = scorable_customers(schema)
        stream_batches.plan_batch(connection, BATCH)
        stream_batches.plan_batch(connection, NEXT_BATCH)
        stream_positions.add_positions(connection, topic="events", topic_id=TOPIC_ID, starts={0: 0})

    def commit(self, *, rows: BinaryArray | None, batch: str = BATCH, start: int = 0) -> Heartbeat:
        """Commit the events, whose rows are given or copied before."""
        now = datetime.now(UTC)
        risky = [
            each.bytes for each, score in zip(event_ids(), scores().astype(float), strict=True) if score >= THRESHOLD
        ]
        return ledger.advance(
            self.connection,
            Advance(
                batch=batch,
                lanes=1,
                topic_id=TOPIC_ID,
                starts={0: start},
                ends={0: start + COUNT},
                last_records={0: LastRecord(start + COUNT - 1, b"digest", 0)},
                predictions=COUNT,
                dead_letters=0,
                duplicates=0,
                erased=0,
                erasures=0,
                opened=now,
                accepts_from=now - timedelta(days=1),
                accepts_until=now + timedelta(hours=1),
                model_version=1,
                hours=sums_of(self.table.schema, self.customers),
                schema=self.table.schema,
            ),
            rows=rows,
            risky=np.frombuffer(b"".join(risky), "V16"),
            threshold=THRESHOLD,
        )

    def rows(self) -> Rows:
        return prediction_rows(self.table, self.customers, batch=BATCH)

    def given(self) -> BinaryArray:
        return churn_predictions.given_rows(self.rows(), churn_predictions.row_type(self.connection))

    def content(self) -> dict[str, list[str]]:
        """Every row of the tables that a commit changes, as text."""
        return {
            name: [
                text
                for (text,) in self.connection.execute(
                    psycopg.sql.SQL("select t::text from {} t order by 1").format(psycopg.sql.Identifier(name))
                )
            ]
            for name in CHANGED
        }


@pytest.fixture
def stream(any_database: Database, any_schema: CustomerSchema) -> Iterator[Ledger]:
    """In a transaction that is rolled back."""
    with connect(any_database.writer, application_name="test") as connection:
        yield Ledger(connection, any_schema)
        connection.rollback()


def test_rows_in_the_statement_and_rows_that_were_copied_give_the_same_tables(stream: Ledger) -> None:
    with stream.connection.transaction(force_rollback=True):
        stream.commit(rows=stream.given())
        inserted = stream.content()
    churn_predictions.insert_new(stream.connection, stream.rows())
    stream.commit(rows=None)

    assert stream.content() == inserted
    assert len(inserted["churn_predictions"]) == COUNT
    assert 0 < len(inserted["high_risk_customers"]) < COUNT
    assert len(inserted["stream_ranges"]) == 1


def test_a_commit_behind_another_one_changes_nothing(stream: Ledger) -> None:
    stream.connection.execute("update stream_positions set next_offset = 1")
    before = stream.content()

    with pytest.raises(LedgerConflictError, match="moved 0 of 1 positions"), stream.connection.transaction():
        stream.commit(rows=stream.given())

    assert stream.content() == before


def test_a_commit_to_a_closed_batch_changes_nothing(stream: Ledger) -> None:
    stream.connection.execute("update stream_batches set opened = now(), closed = now() where batch = %s", (BATCH,))
    before = stream.content()

    with pytest.raises(LedgerConflictError, match="0 of 1 open batch"), stream.connection.transaction():
        stream.commit(rows=stream.given())

    assert stream.content() == before


def test_a_known_event_changes_nothing(stream: Ledger) -> None:
    stream.commit(rows=stream.given())
    before = stream.content()

    with pytest.raises(KnownEventError), stream.connection.transaction():
        stream.commit(rows=stream.given(), start=COUNT)

    assert stream.content() == before


def test_rows_of_a_table_with_fewer_columns_change_nothing(stream: Ledger) -> None:
    now, before = churn_predictions.row_type(stream.connection), stream.content()
    earlier = replace(now, columns=dict(list(now.columns.items())[:-1]))

    with pytest.raises(TableChangedError), stream.connection.transaction():
        stream.commit(rows=churn_predictions.given_rows(stream.rows(), earlier))

    assert stream.content() == before


def test_while_a_batch_is_open_its_range_excludes_every_later_offset_from_others(stream: Ledger) -> None:
    stream.commit(rows=stream.given())
    later = "insert into stream_ranges values (%s, %s, 0, %s, %s)"

    with pytest.raises(psycopg.errors.ExclusionViolation), stream.connection.transaction():
        stream.connection.execute(later, (NEXT_BATCH, TOPIC_ID, COUNT + 1_000, COUNT + 2_000))
    stream_batches.close_if_open(stream.connection, BATCH)
    stream.connection.execute(later, (NEXT_BATCH, TOPIC_ID, COUNT, COUNT + 1))

    assert [each.end_offset for each in stream_batches.ranges_of(stream.connection, BATCH)] == [COUNT]


def test_a_range_of_a_closed_batch_is_not_extended(stream: Ledger) -> None:
    stream.commit(rows=stream.given())
    stream_batches.close_if_open(stream.connection, BATCH)

    with pytest.raises(psycopg.errors.CheckViolation), stream.connection.transaction():
        stream.connection.execute("update stream_ranges set end_offset = end_offset + 1")


def test_extending_a_range_leaves_its_indexes_as_they_are(bank_database: Database, bank_schema: CustomerSchema) -> None:
    with connect(bank_database.writer, application_name="test", autocommit=True) as connection:
        stream = Ledger(connection, bank_schema)
        stream.commit(rows=stream.given())
        for _ in range(50):
            connection.execute("update stream_ranges set end_offset = end_offset + 1")
        connection.execute("select pg_stat_force_next_flush()")
        updates = connection.execute(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'stream_ranges'"
        ).fetchone()

    assert updates == (50, 50)
