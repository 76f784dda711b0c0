"""Hours and days that are due for evaluation, and the sample of an hour, with rows of a real stream."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database import monitoring_results
from churn_platform.local.stack import Stack
from churn_platform.monitoring import lookups
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.stream.streams import event, new_stream

HOUR = datetime(2026, 11, 26, 9, tzinfo=UTC)
NOTHING = {"drift_rows": 0, "outcomes": 0, "refused": 0, "readings": 0, "shadow_predictions": 0}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def template_database(stack: Stack, template_database: str, bundle_uri: str) -> str:
    """A template with 300 events of one hour in three batches."""
    database = copy_database(stack, template_database)
    with new_stream(database, bundle_uri) as stream:
        for batch in range(3):
            events = [event(n, event_timestamp=(HOUR + timedelta(minutes=n % 60)).isoformat()) for n in range(100)]
            stream.send([{**each, "CreditScore": 400 + 100 * batch} for each in events])
            stream.stream()
    return str(conninfo_to_dict(database)["dbname"])


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A connection to a copy of that template."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def due(connection: psycopg.Connection, *, every: float = 0, since: datetime = LONG_AGO) -> list[datetime]:
    """Return the hours that are due."""
    return monitoring_results.due_hours(connection, at_most_every=every, since=since)


def insert_drift(connection: psycopg.Connection, *, version: int) -> None:
    """Insert drift of the hour, evaluated at this version."""
    connection.execute("delete from drift_hourly")
    connection.execute(
        "insert into drift_hourly values (%s, 1, 'Age', 1, 1, '{1}', 0, 0, 1, 'stable', 0, 0, %s)", (HOUR, version)
    )


def test_an_hour_is_due_until_all_its_changes_have_been_evaluated(
    connection: psycopg.Connection, bank_schema: CustomerSchema
) -> None:
    assert due(connection) == [HOUR]
    assert due(connection, every=3_600) == []  # its first batch is younger
    assert due(connection, since=HOUR + timedelta(hours=1)) == []
    version = lookups.sample_hour(connection, bank_schema, HOUR).version

    insert_drift(connection, version=version)
    assert due(connection) == []

    insert_drift(connection, version=version - 1)
    assert due(connection) == [HOUR]
    assert due(connection, every=3_600) == []


def test_a_day_is_due_when_its_hours_have_changed(connection: psycopg.Connection) -> None:
    def days() -> list[str]:
        found = monitoring_results.due_days(connection, at_most_every=0, since=LONG_AGO)
        return [day.isoformat() for day in found]

    assert days() == []
    insert_drift(connection, version=3)
    assert days() == ["2026-11-26"]
    connection.execute(
        "insert into drift_daily values ('2026-11-26', 1, 'Age', 1, 1, '{1}', 0, 0, 1, 'stable', 0, 0, 3)"
    )
    assert days() == []
    insert_drift(connection, version=4)
    assert days() == ["2026-11-26"]


def test_an_hour_of_few_predictions_is_evaluated_completely(
    connection: psycopg.Connection, bank_schema: CustomerSchema
) -> None:
    sample = lookups.sample_hour(connection, bank_schema, HOUR)

    assert sample.weight == 1
    assert {version: len(columns["Age"]) for version, columns in sample.columns.items()} == {1: 300}


def test_an_hour_of_many_predictions_is_sampled_from_batches_spread_over_it(
    connection: psycopg.Connection,
    bank_schema: CustomerSchema,
) -> None:
    sample, again = (lookups.sample_hour(connection, bank_schema, HOUR, rows=100, scanned_rows=200) for _ in range(2))

    sampled = sample.columns[1]["CreditScore"]
    assert 50 < len(sampled) < 150
    assert sample.weight == 300 / len(sampled)
    assert set(sampled) == {400, 600}  # every second batch
    assert (sampled == again.columns[1]["CreditScore"]).all()


def test_old_drift_and_outcomes_are_deleted(connection: psycopg.Connection) -> None:
    insert_drift(connection, version=1)
    connection.execute(
        "insert into customer_outcomes (topic_id, kafka_partition, kafka_offset, customer_id, churned, "
        "outcome_timestamp, received_at) values ('t', 0, 0, 1, 1, now(), %s)",
        (HOUR,),
    )

    assert lookups.delete_old(connection, before=HOUR) == NOTHING
    later = HOUR + timedelta(hours=1)
    assert lookups.delete_old(connection, before=later) == NOTHING | {"drift_rows": 1, "outcomes": 1}
