"""Checks report violations, and nothing if there are none."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from churn_platform.features.binning import add_bands
from churn_platform.features.cleaning import clean
from churn_platform.features.dates import add_days
from churn_platform.orchestration.checks.frames import (
    Rule,
    categories_rule,
    column_order_rule,
    nulls_rule,
    ranges_rule,
    schema_rule,
    unique_rule,
)
from churn_platform.orchestration.checks.preparation_checks import feature_ranges, feature_rules, raw_rules
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, fitted, inputs

FRAME = pd.DataFrame({"Age": [18.0, np.nan, 130.0], "Tenure": [1, 2, 3], "Gender": ["Male", None, "male"]})


@pytest.mark.parametrize(
    ("rule", "violations"),
    [
        (schema_rule({"Age": "float64", "Tenure": "int64"}), []),
        (
            schema_rule({"Age": "int64", "Balance": "float64"}),
            ["Age is float64, not int64", "Balance is missing, not float64"],
        ),
        (nulls_rule(["Tenure"], BANK), []),
        (nulls_rule(["Age", "Balance"], BANK), ["Age is null in 1 of 3 rows", "Balance is null in 3 of 3 rows"]),
        (ranges_rule({"Age": (18, 130), "Tenure": (1, 3)}, BANK), []),
        (
            ranges_rule({"Age": (19, 120), "Balance": (0, 1)}, BANK),
            ["Balance is missing", "Age is 18..130 in 2 of 3 rows"],
        ),
        (categories_rule({"Gender": ("Male", "male")}, BANK), []),
        (categories_rule({"Gender": ("Female", "Male")}, BANK), ["Gender is 'male' in 1 of 3 rows"]),
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
    rule = unique_rule("CustomerId", BANK)

    assert rule.violations(customers) == []
    assert rule.violations(copied) == [
        f"2 values of CustomerId are in 5 of 23 rows, which are equal (remove the copies): {fourth}, {fifth}"
    ]
    assert rule.violations(changed) == [
        f"1 values of CustomerId are in 2 of 23 rows, which are equal (remove the copies): {fourth}",
        f"1 values of CustomerId are in 3 of 23 rows, which differ (keep the correct one): {fifth}",
    ]


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS])
def test_every_rule_of_the_schema_is_checked(schema: CustomerSchema) -> None:
    """The UI and the data dictionary show no rule that a file may break."""
    seen = " ".join(f"{rule.name}: {rule.expected};" for rule in raw_rules(schema))

    for column in schema.columns:
        assert f"{column.name} {column.dtype}" in seen or column.optional
        for bound in (column.minimum, column.maximum):
            assert bound is None or (str(bound) if isinstance(bound, date) else f"{bound:,}") in seen
        assert not column.unique or f"every {column.name} in one row only" in seen
        closed = column.unknown == "refuse"
        assert all((f"{column.name} {column.categories[0]}" in seen) == closed for _ in column.categories[:1])


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS])
def test_customers_that_the_schema_allows_break_no_rule(schema: CustomerSchema) -> None:
    customers = any_customers(schema, 200, seed=5)

    assert [violation for rule in raw_rules(schema) for violation in rule.violations(customers)] == []


def test_dates_out_of_range_are_reported_with_the_ids_of_their_rows() -> None:
    customers = any_customers(SUBSCRIBERS, 100, seed=5)
    customers.loc[[3, 4], "SignupDate"] = np.array(["2009-12-31", "2040-01-01"], "datetime64[s]")
    rules = {rule.name: rule for rule in raw_rules(SUBSCRIBERS)}

    assert rules["ranges"].violations(customers) == [
        "SignupDate is 2009-12-31..2040-01-01 in 2 of 100 rows (SubscriberId C-000003, C-000004)"
    ]
    assert "SignupDate 2010-01-01..2035-12-31" in rules["ranges"].expected


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS])
def test_features_have_the_dtypes_and_ranges_that_are_checked(schema: CustomerSchema) -> None:
    transform = fitted(clean(any_customers(schema, 200, seed=5), schema), schema)
    others = clean(any_customers(schema, 200, seed=6), schema)
    encoded = transform.encoder.encode(transform.imputer.impute(inputs(others, schema)))
    made = transform.scaler.scale(add_days(add_bands(encoded, schema), schema))
    frame = pd.DataFrame({name: made[name] for name in schema.feature_names} | {schema.target: others[schema.target]})

    assert [text for rule in feature_rules(schema) for text in rule.violations(frame)] == []
    outside = frame.assign(**dict.fromkeys(feature_ranges(schema), 99999999))
    (wrong,) = [rule.violations(outside) for rule in feature_rules(schema) if rule.name == "ranges"]
    assert len(wrong) == len(feature_ranges(schema))


def test_many_unknown_texts_are_counted_and_not_shown() -> None:
    shifted = pd.DataFrame({"Gender": [f"Name{number}" for number in range(6)]})

    (violation,) = categories_rule({"Gender": ("Female", "Male")}, BANK).violations(shifted)

    assert "one of 6 other texts (not shown" in violation
    assert "Name1" not in violation


def test_the_expected_rule_is_shown_as_text() -> None:
    assert ranges_rule({"Age": (18, 120)}, BANK).expected == "Age 18..120"
    assert categories_rule({"Gender": ("Female", "Male")}, BANK).expected == "Gender Female or Male"
