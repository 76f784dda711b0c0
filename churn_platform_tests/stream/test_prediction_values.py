"""Rows, messages and sums of predictions follow from the customer schema."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from churn_platform.database.prediction_columns import prediction_table
from churn_platform.decoding.events import EventColumns, EventDecoder
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.commit_rows import hour_sums
from churn_platform.stream.prediction_messages import messages, messages_of
from churn_platform.stream.prediction_values import message_frame, message_types, prediction_rows
from churn_platform.stream.scoring import ScoredEvents
from churn_platform_tests.decoding.schemas import NULL, schemas
from churn_platform_tests.decoding.test_any_schema import as_json, customers
from churn_platform_tests.decoding.test_events import EVENT, decoded, message
from churn_platform_tests.examples import examples

BATCH = "2026-11-24T08:00:00.000000Z"


def scored(events: EventColumns) -> ScoredEvents:
    """Return events with scores from 0.1 upwards."""
    risk = np.linspace(0.1, 0.9, len(events), dtype=np.float32)
    return ScoredEvents(
        events=events,
        risk_score=risk,
        prediction=(risk >= 0.5).astype(np.int16),
        model_version=3,
        champion_version=3,
        predicted_at=1_795_000_000_000_000,
    )


@given(data=st.data(), schema=schemas())
@hypothesis_settings(max_examples=examples(40), deadline=None)
def test_a_message_has_the_values_of_its_event(data: st.DataObject, schema: CustomerSchema) -> None:
    several = data.draw(st.lists(customers(schema), min_size=1, max_size=3))
    decoder = EventDecoder(schema)
    events, _ = decoded(*(message(as_json(each), offset=n) for n, each in enumerate(several)), decoder=decoder)
    table = prediction_table(schema)

    frame = message_frame(table, BATCH, [scored(events)])
    sent_messages = messages_of(frame)

    assert dict(frame.schema) == message_types(table)
    for customer, sent in zip(several, sent_messages, strict=True):
        document = json.loads(sent["value"])
        assert sent["key"] == str(customer[schema.id])
        assert document["customer_id"] == customer[schema.id]
        for column in schema.summary:
            value = None if customer[column.name] is NULL else customer[column.name]
            if column.kind == "date":
                value = value and value.isoformat()
            elif column.single_precision:
                value = value and pytest.approx(value, rel=1e-6)
            assert document[column.column] == value


@given(data=st.data(), schema=schemas())
@hypothesis_settings(max_examples=examples(40), deadline=None)
def test_messages_of_few_predictions_are_those_of_many(data: st.DataObject, schema: CustomerSchema) -> None:
    several = data.draw(st.lists(customers(schema), min_size=2, max_size=6))
    events, _ = decoded(
        *(message(as_json(each), offset=n) for n, each in enumerate(several)), decoder=EventDecoder(schema)
    )
    table, commit = prediction_table(schema), scored(events)
    for commits in ([commit], [commit, replace(commit, model_version=4, predicted_at=1_795_000_000_250_001)]):
        few, many = messages(table, BATCH, commits), messages_of(message_frame(table, BATCH, commits))
        assert [each["key"] for each in few] == [each["key"] for each in many]
        assert [json.loads(each["value"]) for each in few] == [json.loads(each["value"]) for each in many]


def test_a_row_has_null_where_a_value_is_missing() -> None:
    schema = CustomerSchema(
        name="few",
        id="Number",
        target="Left",
        columns=(
            Column(name="Number", kind="text", max_length=9),
            Column(name="Calls", kind="whole", minimum=0, maximum=99, missing="median", averaged=True),
            Column(name="Größe", kind="category", categories=("groß",), missing="mode", summary=True),
            Column(name="Since", kind="date", missing="median", summary=True),
            Column(name="Left", kind="flag"),
        ),
    )
    given_values = {"Number": "Ä-1", "Calls": 7, "Größe": "groß", "Since": "2020-02-29"}
    missing = {"Number": "B-2", "Calls": None, "Größe": None, "Since": None}
    events, _ = decoded(
        message(json.dumps(given_values).encode()), message(json.dumps(missing).encode()), decoder=EventDecoder(schema)
    )

    columns = prediction_rows(prediction_table(schema), BATCH, scored(events)).columns

    assert {name: columns[name].type for name in ("customer_id", "calls", "größe", "since")} == {
        "customer_id": "text",
        "calls": "smallint",
        "größe": "text",
        "since": "date",
    }
    for name in ("calls", "größe", "since"):
        null = columns[name].null
        assert null is not None
        assert null.tolist() == [False, True]


def test_sums_of_an_hour_leave_out_missing_values(bank_schema: CustomerSchema) -> None:
    def event(hour: int, age: int | None, balance: float) -> bytes:
        moment = datetime(2026, 11, 24, hour, 30, tzinfo=UTC).isoformat()
        return json.dumps({**EVENT, "event_timestamp": moment, "Age": age, "Balance": balance}).encode()

    events, _ = decoded(message(event(7, 30, 0.5)), message(event(8, None, 10.25)), message(event(8, 50, 20.0)))

    sums = hour_sums(bank_schema, scored(events), high_risk_threshold=0.7)

    assert [each.total_predictions for each in sums] == [1, 2]
    assert [each.high_risk_count for each in sums] == [0, 1]
    assert [each.averages for each in sums] == [
        {"age": 30.0, "balance": 0.5, "tenure": 3.0},
        {"age": 50.0, "balance": 30.25, "tenure": 6.0},
    ]
    assert [each.known for each in sums] == [{"age": 1}, {"age": 1}]
