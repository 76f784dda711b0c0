"""The file reader, the stream and the scoring of frames accept and reject the same values of each column."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from churn_platform.decoding.events import CUSTOMER_FIELDS, decode
from churn_platform.features.cleaning import clean
from churn_platform.features.columns import INPUT_COLUMNS
from churn_platform.orchestration.checks.preparation_checks import RAW_RULES
from churn_platform.schema.columns import COLUMNS_BY_NAME, Column
from churn_platform.schema.exceptions import WrongValueError
from churn_platform.schema.reader import read_customers
from churn_platform.scoring.frames import UnscorableRowsError, scorable_columns
from churn_platform_tests.stream.streams import CUSTOMER

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
Value = str | int | float | None


def values_of(column: Column) -> st.SearchStrategy[Value]:
    """Values that both formats can represent: near the bounds, far from them, other categories, and missing."""
    if column.kind == "category":
        # A file cannot have spaces around a text, nor a zero byte in one.
        texts = st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(str.strip)
        return st.none() | st.sampled_from([*column.categories, column.categories[0].lower(), "Italy"]) | texts
    least, most = int(column.minimum or 0), int(column.maximum or 0)
    whole = st.integers() | st.integers(least - 3, least + 3) | st.integers(most - 3, most + 3)
    numbers = st.floats(allow_nan=False, allow_infinity=False) | st.floats(float(least) - 1, float(most) + 1)
    if column.kind == "whole":
        return st.none() | whole | numbers.filter(lambda number: not number.is_integer())
    return st.none() | whole | numbers


def stream_accepts(column: Column, value: Value) -> bool:
    """Return whether an event with this value is scored."""
    content = json.dumps({**CUSTOMER, "CustomerId": 15_700_001, column.name: value}).encode()
    message = Message(
        topic="events",
        partition=0,
        offset=0,
        value=content,
        timestamp=(TIMESTAMP_CREATE_TIME, round(NOW.timestamp() * 1000)),
    )
    events, dead_letters = decode([message], topic_id="topic", accepts_from=NOW, accepts_until=NOW)
    assert len(events) + len(dead_letters) == 1
    return len(events) == 1


def file_accepts(column: Column, value: Value, folder: Path) -> bool:
    """Return whether a row with this value is used for training."""
    row = {**CUSTOMER, "CustomerId": 15_700_001, "Exited": 0, column.name: value}
    text = io.StringIO()
    csv.writer(text).writerows([row.keys(), ["" if each is None else each for each in row.values()]])
    file = folder / "customers.csv"
    file.write_bytes(text.getvalue().encode())
    try:
        customers = read_customers(file)
    except WrongValueError:
        return False
    return not any(rule.violations(customers) for rule in RAW_RULES) and len(clean(customers)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", CUSTOMER_FIELDS)
def test_a_file_and_the_stream_agree_on_every_value_of_a_column(name: str, tmp_path: Path) -> None:
    column = COLUMNS_BY_NAME[name]

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(value=values_of(column))
    @example(value=2**62)
    @example(value=2**62 + 1)
    @example(value=2**63)
    @example(value=10**15)
    @example(value=5e-324)
    def agree(value: Value) -> None:
        assert file_accepts(column, value, tmp_path) == stream_accepts(column, value)

    agree()


def frame_accepts(column: Column, value: Value) -> bool:
    """Return whether a model scores a frame with this value."""
    row = {name: pd.Series([CUSTOMER[name]], dtype=object) for name in INPUT_COLUMNS}
    try:
        scorable_columns(pd.DataFrame({**row, column.name: pd.Series([value], dtype=object)}))
    except UnscorableRowsError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUT_COLUMNS)
def test_a_frame_and_the_stream_agree_on_every_value_of_a_column(name: str) -> None:
    column = COLUMNS_BY_NAME[name]

    @settings(deadline=None)
    @given(value=values_of(column))
    def agree(value: Value) -> None:
        assert frame_accepts(column, value) == stream_accepts(column, value)

    agree()


@pytest.mark.parametrize("name", CUSTOMER_FIELDS)
def test_the_bounds_of_a_column_are_inclusive(name: str, tmp_path: Path) -> None:
    column = COLUMNS_BY_NAME[name]
    if column.categories:
        inside, outside = list[Value](column.categories), list[Value](["Atlantis"])
    else:
        assert column.minimum is not None
        assert column.maximum is not None
        inside, outside = [column.minimum, column.maximum], [column.minimum - 1, column.maximum + 1]

    for accepts in (stream_accepts, lambda column, value: file_accepts(column, value, tmp_path)):
        assert [accepts(column, value) for value in inside] == [True] * len(inside)
        assert [accepts(column, value) for value in outside] == [False] * len(outside)
