"""The views that dashboards read, on inserted rows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform_tests.database.conftest import new_database

NOW = datetime.now(UTC)


def predict(
    connection: psycopg.Connection,
    customer: int,
    risk: float,
    *,
    ago: timedelta,
    event_id: UUID | None = None,
    age: float | None = 40,
    country: str | None = "Spain",
) -> None:
    """Insert a prediction of a customer, of a batch with a high-risk threshold of 0.7."""
    event_id = event_id or uuid4()
    connection.execute(
        "insert into stream_batches (batch, high_risk_threshold) values ('b', 0.7) on conflict do nothing"
    )
    if risk >= 0.7:
        connection.execute(
            "insert into high_risk_customers (event_id, batch, customer_id, risk_score, balance, geography, gender, "
            "age, detected_at) values (%s, 'b', %s, %s, 0, %s, 'Male', %s, now())",
            (event_id, customer, risk, country, age),
        )
    connection.execute(
        "insert into churn_predictions (event_id, customer_id, prediction, risk_score, predicted_at, event_timestamp, "
        "model_version, credit_score, geography, gender, age, tenure, balance, num_of_products, has_cr_card, "
        "is_active_member, estimated_salary, batch, kafka_partition, kafka_offset) "
        "select %s, %s, 1, %s, now(), %s, 1, 600, %s, 'Male', %s, 3, 0, 1, 1, 1, 0, 'b', 0, count(*) "
        "from churn_predictions",
        (event_id, customer, risk, NOW - ago, country, age),
    )


def summarize(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    """Let the worker follow the predictions into the tables that the views read."""
    connection.execute("insert into stream_topics (topic_id, topic) values ('t', 'events')")
    for table, columns in (
        (
            "stream_ranges",
            "batch, topic_id, kafka_partition, start_offset, end_offset) select 'b', 't', 0, 0, count(*)",
        ),
        (
            "stream_positions",
            "topic_id, kafka_partition, next_offset, first_offset, covered_to, published_to) "
            "select 't', 0, count(*), 0, 0, 0",
        ),
    ):
        connection.execute(f"insert into {table} ({columns} from churn_predictions")
    connection.commit()
    connection.autocommit = True
    assert SummariesDuty(SummariesConfig(schema, control_share=0.1)).run(connection) is False


def riskiest(connection: psycopg.Connection) -> list[tuple[int, float]]:
    """Return customers and scores in the order of the view."""
    rows = connection.execute("select customer_id, risk_score from v_top_risk_customers").fetchall()
    return [(customer, round(risk, 3)) for customer, risk in rows]


def test_a_customer_is_at_risk_by_the_latest_score_and_listed_once(database: str, bank_schema: CustomerSchema) -> None:
    day = timedelta(days=1)
    with psycopg.connect(database) as connection:
        predict(connection, 1, 0.997, ago=2 * day)  # better now
        predict(connection, 1, 0.012, ago=day)
        predict(connection, 2, 0.1, ago=2 * day)  # worse now
        predict(connection, 2, 0.8, ago=day)
        predict(connection, 3, 0.99, ago=2 * day)  # still at risk, though less
        predict(connection, 3, 0.75, ago=day)
        predict(connection, 4, 0.9, ago=8 * day)  # too long ago
        for number in (1, 2):  # two events with the same time
            predict(connection, 5, 0.7 + number / 10, ago=day, event_id=UUID(int=number))
        summarize(connection, bank_schema)

        assert riskiest(connection) == [(5, 0.9), (2, 0.8), (3, 0.75)]


def test_a_hundred_customers_are_listed_although_the_riskiest_scores_are_old(
    database: str, bank_schema: CustomerSchema
) -> None:
    with psycopg.connect(database) as connection:
        for customer in range(120):
            predict(connection, customer, 0.99, ago=timedelta(hours=2))
            predict(connection, customer, 0.0 if customer < 60 else 0.75, ago=timedelta(hours=1))
        for customer in range(200, 250):
            predict(connection, customer, 0.8, ago=timedelta(hours=1))
        summarize(connection, bank_schema)

        found = riskiest(connection)

    assert len(found) == 100
    assert {customer for customer, _ in found[:50]} == set(range(200, 250))
    assert {risk for _, risk in found[50:]} == {0.75}


def test_each_value_of_each_segment_has_its_counts_and_rates(database: str, bank_schema: CustomerSchema) -> None:
    ages: list[float | None] = [29.9, 30, 39, 60, 120, None]
    with psycopg.connect(database) as connection:
        for number, age in enumerate(ages):
            country = "Spain" if number < 4 else "France"
            predict(connection, number, 0.1 * number, ago=timedelta(days=1), age=age, country=country)
        predict(connection, 9, 0.99, ago=timedelta(days=1), country="Spain")
        predict(connection, 9, 0.99, ago=timedelta(days=31), country="Germany")  # too long ago
        connection.execute("update churn_predictions set prediction = (risk_score >= 0.5)::integer")
        summarize(connection, bank_schema)
        found = {
            (segment, value): rest
            for segment, value, *rest in connection.execute("select * from v_segment_churn").fetchall()
        }
        by_country = connection.execute(
            "select geography, total_predictions, churn_count, churn_rate, avg_risk_score, high_risk_count "
            "from v_geography_churn"
        ).fetchall()

    assert {value: rest[0] for (segment, value), rest in found.items() if segment == "age"} == {
        "18 to 29": 1,
        "30 to 39": 2,
        "40 to 49": 1,
        "60 to 120": 2,
        "missing": 1,
    }
    assert {segment for segment, _ in found} == {"age", "gender", "geography", "num_of_products"}
    assert found["num_of_products", "1"][0] == 7
    assert {value: rest for (segment, value), rest in found.items() if segment == "geography"} == {
        country: pytest.approx(rest) for country, *rest in by_country
    }


def test_a_category_that_is_not_listed_counts_as_other(stack: Stack, bank_schema: CustomerSchema) -> None:
    columns = tuple(
        replace(column, unknown="other", missing="category") if column.name == "Geography" else column
        for column in bank_schema.columns
    )
    schema = replace(bank_schema, columns=columns)
    with psycopg.connect(new_database(stack, schema).writer) as connection:
        for country in ("Spain", "Peru", "Chile", None):
            predict(connection, 1, 0.5, ago=timedelta(days=1), country=country)
        summarize(connection, schema)
        found: dict[str, int] = dict(
            connection.execute("select value, total_predictions from v_segment_churn where segment = 'geography'")
        )

    assert found == {"Spain": 1, "other": 2, "missing": 1}


def test_a_schema_without_segments_has_an_empty_view(stack: Stack, bank_schema: CustomerSchema) -> None:
    columns = tuple(replace(column, segment=False, segment_bounds=()) for column in bank_schema.columns)
    schema = replace(bank_schema, columns=columns)
    with psycopg.connect(new_database(stack, schema).writer) as connection:
        predict(connection, 1, 0.5, ago=timedelta(days=1))
        summarize(connection, schema)

        assert connection.execute("select * from v_segment_churn").fetchall() == []


def test_the_rate_of_seven_days_is_that_of_all_their_predictions(database: str) -> None:
    with psycopg.connect(database) as connection:
        for days_ago, total, churned in ((9, 1_000, 900), (6, 100, 100), (1, 19_900, 1_990), (0, 0, 0)):
            connection.execute(
                "insert into churn_metrics_daily (date, total_predictions, churn_count, churn_rate, high_risk_count, "
                "age_count, version) values (current_date - %s::integer, %s, %s, 100.0 * %s / nullif(%s, 0), 0, 0, 1)",
                (days_ago, total, churned, churned, total),
            )
        found = connection.execute(
            "select current_date - date, churn_rate_7_days, churn_rate_change from v_churn_trends"
        ).fetchall()

    assert [days for days, *_ in found] == [0, 1, 6, 9]
    rates = {days: rate for days, rate, _ in found}
    assert rates[1] == pytest.approx(100 * 2_090 / 20_000)  # the mean of both days would be 55
    assert rates[6] == pytest.approx(100 * 1_000 / 1_100)
    assert rates[0] == pytest.approx(100 * 2_090 / 20_000)  # a day without a prediction changes nothing
    assert [change for *_, change in found] == [None, pytest.approx(-90), pytest.approx(10), None]


def test_the_reader_may_read_the_views(database: str) -> None:
    with psycopg.connect(database) as connection:
        for view in ("v_top_risk_customers", "v_churn_trends", "v_segment_churn", "v_geography_churn"):
            found = connection.execute(
                "select has_table_privilege('churn_reader', %s, 'select'), relowner::regrole::text "
                "from pg_class where relname = %s",
                (view, view),
            ).fetchone()
            assert found == (True, "churn_owner")
