"""The file reader, the stream and the scoring of frames accept and reject the same values of each column."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from churn_platform.decoding.events import event_decoder
from churn_platform.features.cleaning import clean
from churn_platform.orchestration.checks.preparation_checks import raw_rules
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import CustomersFileError
from churn_platform.schema.reader import load_customers
from churn_platform.scoring.frames import UnscorableRowsError, scorable_columns
from churn_platform_tests import bank
from churn_platform_tests.examples import examples
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
Value = str | int | float | None
# The format of a file is detected from its values, and a file of one row has few of them.
SCHEMAS = [replace(schema, delimiter=",", decimal=".") for schema in (BANK, SUBSCRIBERS)]
CUSTOMERS: Mapping[str, Mapping[str, object]] = {
    BANK.name: {**bank.CUSTOMER, "CustomerId": 15_700_001},
    SUBSCRIBERS.name: {
        "SubscriberId": "S-100001",
        "SignupDate": "2025-08-31",
        "LastContact": "2026-09-30",
        "Plan": "Basic",
        "Contract": "One year",
        "Payment method": "Card",
        "Internet": "Fibre",
        "Region": "East",
        "PaperlessBilling": 1,
        "PhoneService": 0,
        "OnlineSecurity": None,
        "TechSupport": 0,
        "Streaming": 1,
        "Devices": 4,
        "SupportCalls": 3,
        "Outages": 0,
        "DataUsage": 12.25,
        "MonthlyCharge": 37.51,
        "TotalCharges": 1473.5,
        "Discount": 10,
    },
}
FIELDS = [pytest.param(schema, name, id=name) for schema in SCHEMAS for name in schema.event_fields]
INPUTS = [pytest.param(schema, name, id=name) for schema in SCHEMAS for name in schema.feature_columns]
EXTREMES = (2**62, 2**62 + 1, 2**63, 10**15, 5e-324)


def values_of(column: Column) -> st.SearchStrategy[Value]:
    """Values that both formats can represent: near the bounds, far from them, other categories, and missing."""
    if column.kind in ("category", "text"):
        # A file cannot have spaces around a text, nor a zero byte in one; an empty text is a missing one there.
        characters = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])
        texts = st.text(characters).map(str.strip).filter(bool)
        listed = [*column.categories, *(each.lower() for each in column.categories[:1]), "Italy", "x" * 20, "x" * 201]
        return st.none() | st.sampled_from(listed) | texts
    if column.kind == "date":
        near = [bound + timedelta(days=days) for bound in bounds_of(column) for days in (-1, 0, 1)]
        texts = st.sampled_from(["yesterday", "2026-02-30", "2026-13-01", "2026-1-1x"])
        return st.none() | texts | (st.sampled_from(near) | st.dates()).map(date.isoformat)
    least, most = (int(bound) for bound in numeric_bounds_of(column))
    whole = st.integers() | st.integers(least - 3, least + 3) | st.integers(most - 3, most + 3)
    numbers = st.floats(allow_nan=False, allow_infinity=False) | st.floats(float(least) - 1, float(most) + 1)
    if column.kind != "number":
        numbers = numbers.filter(lambda number: not number.is_integer())
    return st.none() | whole | numbers | st.sampled_from(EXTREMES)


def bounds_of(column: Column) -> list[date]:
    """The bounds of a date."""
    return [bound for bound in (column.minimum, column.maximum) if isinstance(bound, date)]


def numeric_bounds_of(column: Column) -> list[float]:
    """The bounds of a number; 0 where there is none."""
    return [bound if isinstance(bound, int | float) else 0 for bound in (column.minimum, column.maximum)]


def stream_accepts(schema: CustomerSchema, column: Column, value: Value) -> bool:
    """Return whether an event with this value is scored."""
    content = json.dumps({**CUSTOMERS[schema.name], column.name: value}).encode()
    message = Message(
        topic="events",
        partition=0,
        offset=0,
        value=content,
        timestamp=(TIMESTAMP_CREATE_TIME, round(NOW.timestamp() * 1000)),
    )
    decoder = event_decoder(schema)
    events, dead_letters = decoder.decode([message], topic_id="topic", accepts_from=NOW, accepts_until=NOW)
    assert len(events) + len(dead_letters) == 1
    return len(events) == 1


def file_accepts(schema: CustomerSchema, column: Column, value: Value, folder: Path) -> bool:
    """Return whether a row with this value is used for training."""
    row = {**CUSTOMERS[schema.name], schema.target: 0, column.name: value}
    text = io.StringIO()
    csv.writer(text).writerows([row.keys(), ["" if each is None else each for each in row.values()]])
    file = folder / "customers.csv"
    file.write_bytes(text.getvalue().encode())
    try:
        customers = load_customers(file, schema).customers
    except CustomersFileError:  # the only row is wrong, so the whole column is
        return False
    return not any(rule.violations(customers) for rule in raw_rules(schema)) and len(clean(customers, schema)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("schema", "name"), FIELDS)
def test_a_file_and_the_stream_agree_on_every_value_of_a_column(
    schema: CustomerSchema, name: str, tmp_path: Path
) -> None:
    column = schema.column(name)

    @settings(deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])
    @given(value=values_of(column))
    def agree(value: Value) -> None:
        assert file_accepts(schema, column, value, tmp_path) == stream_accepts(schema, column, value)

    agree()


def frame_accepts(schema: CustomerSchema, column: Column, value: Value) -> bool:
    """Return whether a model scores a frame with this value."""
    customer = {**CUSTOMERS[schema.name], column.name: value}
    row = {name: pd.Series([customer[name]], dtype=object) for name in schema.feature_columns}
    try:
        scorable_columns(pd.DataFrame(row), schema)
    except UnscorableRowsError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(("schema", "name"), INPUTS)
def test_a_frame_and_the_stream_agree_on_every_value_of_a_column(schema: CustomerSchema, name: str) -> None:
    column = schema.column(name)

    @settings(deadline=None, max_examples=examples(100))
    @given(value=values_of(column))
    def agree(value: Value) -> None:
        assert frame_accepts(schema, column, value) == stream_accepts(schema, column, value)

    agree()


@pytest.mark.parametrize(("schema", "name"), FIELDS)
def test_the_bounds_of_a_column_are_inclusive(schema: CustomerSchema, name: str, tmp_path: Path) -> None:
    column = schema.column(name)
    inside: list[Value]
    outside: list[Value]
    if column.categories:
        inside, outside = [*column.categories], [] if column.unknown == "other" else ["Atlantis"]
    elif column.kind == "text":
        assert column.max_length is not None
        inside, outside = ["x" * column.max_length], ["x" * (column.max_length + 1)]
    elif column.kind == "date":
        first, last = bounds_of(column)
        day = timedelta(days=1)
        inside, outside = [str(first), str(last)], [str(first - day), str(last + day)]
    else:
        least, most = numeric_bounds_of(column)
        inside, outside = [least, most], [least - 1, most + 1]

    for values, accepted in ((inside, True), (outside, False)):
        for value in values:
            assert stream_accepts(schema, column, value) == accepted
            assert file_accepts(schema, column, value, tmp_path) == accepted
