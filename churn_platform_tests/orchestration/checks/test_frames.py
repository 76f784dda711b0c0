"""Checks report violations, and nothing if there are none."""

import numpy as np
import pandas as pd
import pytest

from churn_platform.orchestration.checks.frames import (
    Rule,
    categories_rule,
    column_order_rule,
    nulls_rule,
    ranges_rule,
    schema_rule,
    unique_rule,
)
from churn_platform.orchestration.checks.preparation_checks import RAW_RULES
from churn_platform.schema.columns import COLUMNS
from churn_platform.schema.generator import generate_customers

FRAME = pd.DataFrame({"Age": [18.0, np.nan, 130.0], "Tenure": [1, 2, 3], "Gender": ["Male", None, "male"]})


@pytest.mark.parametrize(
    ("rule", "violations"),
    [
        (schema_rule({"Age": "float64", "Tenure": "int64"}), []),
        (
            schema_rule({"Age": "int64", "Balance": "float64"}),
            ["Age is float64, not int64", "Balance is missing, not float64"],
        ),
        (nulls_rule(["Tenure"]), []),
        (nulls_rule(["Age", "Balance"]), ["Age is null in 1 of 3 rows", "Balance is null in 3 of 3 rows"]),
        (ranges_rule({"Age": (18, 130), "Tenure": (1, 3)}), []),
        (ranges_rule({"Age": (19, 120), "Balance": (0, 1)}), ["Balance is missing", "Age is 18..130 in 2 of 3 rows"]),
        (categories_rule({"Gender": ("Male", "male")}), []),
        (categories_rule({"Gender": ("Female", "Male")}), ["Gender is 'male' in 1 of 3 rows"]),
        (column_order_rule(["Age", "Tenure", "Gender"]), []),
        (column_order_rule(["Tenure", "Age", "Gender"]), ["the columns are Age, Tenure, Gender"]),
    ],
)
def test_violations_are_reported(rule: Rule, violations: list[str]) -> None:
    assert rule.violations(FRAME) == violations


def test_repeated_customers_are_reported_by_id_and_equal_rows_apart_from_different_ones() -> None:
    customers = generate_customers(20, seed=3)
    copied = pd.concat([customers, customers.iloc[[4, 5, 5]]], ignore_index=True)
    copied["RowNumber"] = range(1, len(copied) + 1)
    changed = copied.copy()
    changed["Tenure"] += (changed.index == len(changed) - 1).astype(int)
    fourth, fifth = customers["CustomerId"][4], customers["CustomerId"][5]
    rule = unique_rule("CustomerId")

    assert rule.violations(customers) == []
    assert rule.violations(copied) == [
        f"2 values of CustomerId are in 5 of 23 rows, which are equal (remove the copies): {fourth}, {fifth}"
    ]
    assert rule.violations(changed) == [
        f"1 values of CustomerId are in 2 of 23 rows, which are equal (remove the copies): {fourth}",
        f"1 values of CustomerId are in 3 of 23 rows, which differ (keep the correct one): {fifth}",
    ]


def test_every_rule_of_the_schema_is_checked() -> None:
    """The UI and the data dictionary show no rule that a file may break."""
    seen = " ".join(f"{rule.name}: {rule.expected};" for rule in RAW_RULES)

    for column in COLUMNS:
        assert f"{column.name} {column.dtype}" in seen or column.optional
        for bound in (column.minimum, column.maximum):
            assert bound is None or f"{bound:,}" in seen
        assert not column.unique or f"every {column.name} in one row only" in seen
        assert all(f"{column.name} {column.categories[0]}" in seen for _ in column.categories[:1])


def test_many_unknown_texts_are_counted_and_not_shown() -> None:
    shifted = pd.DataFrame({"Gender": [f"Name{number}" for number in range(6)]})

    (violation,) = categories_rule({"Gender": ("Female", "Male")}).violations(shifted)

    assert "one of 6 other texts (not shown" in violation
    assert "Name1" not in violation


def test_the_expected_rule_is_shown_as_text() -> None:
    assert ranges_rule({"Age": (18, 120)}).expected == "Age 18..120"
    assert categories_rule({"Gender": ("Female", "Male")}).expected == "Gender Female or Male"
