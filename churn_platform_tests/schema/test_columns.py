"""Columns: names and types in tables, categories, and the allowed values as text."""

from datetime import date

import pytest

from churn_platform.schema.columns import Column, snake_case


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CreditScore", "credit_score"),
        ("HasCrCard", "has_cr_card"),
        ("IDNumber", "id_number"),
        ("age", "age"),
        ("Monthly charges (EUR)", "monthly_charges_eur"),
        ("__x--y__", "x_y"),
        ("Größe", "größe"),
        ("Cafe\u0301", "caf\u00e9"),
        ("ÉtatCivil", "état_civil"),
        ("年齢", "年齢"),
        ("Tenure12Months", "tenure12months"),
        ("!?", ""),
    ],
)
def test_a_name_in_tables_is_in_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected
    assert Column(name=name, kind="text", sql_name="other").column == "other"


@pytest.mark.parametrize(
    ("column", "sql_type", "dtype"),
    [
        (Column(name="x", kind="flag", minimum=0, maximum=1), "smallint", "int64"),
        (Column(name="x", kind="flag", minimum=0, maximum=1, missing="median"), "smallint", "float64"),
        (Column(name="x", kind="whole", minimum=0, maximum=32_767), "smallint", "int64"),
        (Column(name="x", kind="whole", minimum=0, maximum=32_768), "integer", "int64"),
        (Column(name="x", kind="whole", minimum=-(2**31), maximum=0), "bigint", "int64"),
        (Column(name="x", kind="whole"), "bigint", "int64"),
        (Column(name="x", kind="whole", missing="median"), "bigint", "float64"),
        (Column(name="x", kind="number"), "double precision", "float64"),
        (Column(name="x", kind="number", single_precision=True), "real", "float64"),
        (Column(name="x", kind="category", categories=("a",)), "text", "object"),
        (Column(name="x", kind="date"), "date", "datetime64[s]"),
    ],
)
def test_types_follow_from_kind_range_and_missing_values(column: Column, sql_type: str, dtype: str) -> None:
    assert column.sql_type == sql_type
    assert column.dtype == dtype


@pytest.mark.parametrize(
    ("column", "categories"),
    [
        (Column(name="x", kind="category", categories=("a", "b")), ("a", "b")),
        (Column(name="x", kind="category", categories=("a",), unknown="other"), ("a", "other")),
        (Column(name="x", kind="category", categories=("other", "a"), unknown="other"), ("other", "a")),
        (Column(name="x", kind="category", categories=("a",), missing="category"), ("a", "missing")),
        (
            Column(name="x", kind="category", categories=("a",), unknown="other", missing="category"),
            ("a", "other", "missing"),
        ),
    ],
)
def test_other_and_missing_values_are_categories_where_the_schema_has_them(
    column: Column, categories: tuple[str, ...]
) -> None:
    assert column.all_categories == categories


@pytest.mark.parametrize(
    ("column", "allowed"),
    [
        (
            Column(name="x", kind="whole", unit="points", minimum=300, maximum=900),
            "a whole number from 300 to 900 points",
        ),
        (Column(name="x", kind="number", minimum=0.5), "a number from 0.5"),
        (Column(name="x", kind="number", missing="median"), "a number, or empty"),
        (Column(name="x", kind="flag", minimum=0, maximum=1), "0 or 1"),
        (Column(name="x", kind="category", categories=("a",)), "a"),
        (Column(name="x", kind="category", categories=("a", "b", "c"), missing="drop"), "a, b or c, or empty"),
        (Column(name="x", kind="text", max_length=9), "a text of at most 9 characters"),
        (Column(name="x", kind="date"), "a date (YYYY-MM-DD)"),
        (Column(name="x", kind="date", minimum=date(2020, 1, 31)), "a date (YYYY-MM-DD) from 2020-01-31"),
    ],
)
def test_the_allowed_values_are_a_text(column: Column, allowed: str) -> None:
    assert column.allowed == allowed


def test_numbers_and_dates_have_more_texts_for_missing_values_than_categories() -> None:
    number, category = Column(name="x", kind="number"), Column(name="x", kind="category", categories=("NA",))

    assert number.is_missing("")
    assert number.is_missing("NA")
    assert category.is_missing("")
    assert not category.is_missing("NA")


@pytest.mark.parametrize(
    ("bounds", "maximum", "labels"),
    [
        ((18, 30, 60), 120, ("below 18", "18 to 29", "30 to 59", "60 to 120")),
        ((0.5, 1.5), None, ("below 0.5", "0.5 to below 1.5", "1.5 and more")),
        ((), 9, ()),
    ],
)
def test_segments_are_named_by_their_bounds(bounds: tuple[float, ...], maximum: float, labels: tuple[str, ...]) -> None:
    column = Column(name="x", kind="number", maximum=maximum, segment=True, segment_bounds=bounds)

    assert column.segment_labels == labels
