"""Events of the producer are those of the customers file, and its faults become dead letters."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from churn_platform.decoding.events import event_decoder
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.reader import load_customers
from churn_platform.schema.toml_file import customers_file, load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform.simulation.producer import Row, customer_event, rows_of, wrong_values
from churn_platform_tests.decoding.test_events import message

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


@pytest.fixture(params=["bank", "subscribers"], scope="module")
def customers(request: pytest.FixtureRequest) -> tuple[CustomerSchema, list[Row]]:
    """A schema of the repository, and rows of its customers file."""
    file = PROJECT_ROOT / "data" / request.param / "schema.toml"
    schema = load_schema(file)
    return schema, rows_of(load_customers(customers_file(file), schema).customers, schema)


def outcome(schema: CustomerSchema, *events: Mapping[str, object]) -> tuple[int, list[str]]:
    """Return how many events are valid, and the reasons of the others."""
    valid, dead_letters = event_decoder(schema).decode(
        [message(msgspec.json.encode(event), offset=number) for number, event in enumerate(events)],
        topic_id="topic",
        accepts_from=NOW - timedelta(days=1),
        accepts_until=NOW,
    )
    return len(valid), [dead_letter.reason for dead_letter in dead_letters]


def test_every_row_makes_a_valid_event(customers: tuple[CustomerSchema, list[Row]]) -> None:
    schema, rows = customers

    valid, reasons = outcome(schema, *(customer_event(row, schema, moment=NOW) for row in rows))

    assert reasons == []
    assert valid == len(rows) > 4_000


def test_the_target_is_the_label_of_the_event(customers: tuple[CustomerSchema, list[Row]]) -> None:
    schema, rows = customers

    events = [customer_event(row, schema, moment=NOW) for row in rows]

    assert {event["true_churn_label"] for event in events} == {0, 1}
    assert not any(schema.target in event for event in events)


def test_every_fault_makes_a_dead_letter_that_names_the_field(customers: tuple[CustomerSchema, list[Row]]) -> None:
    schema, rows = customers
    event = customer_event(rows[0], schema, moment=NOW)
    faults = wrong_values(schema)

    assert len(faults) >= 4
    for name, value in faults:
        valid, reasons = outcome(schema, {**event, name: value})
        assert valid == 0
        assert name in reasons[0]
