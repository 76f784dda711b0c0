"""The asset checks of the preparation: which rules apply to which asset. They follow from the customer schema."""

import math
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Final

import dagster as dg

from churn_platform.orchestration.checks.file_drift import file_drift_check
from churn_platform.orchestration.checks.frames import (
    Bounds,
    Rule,
    categories_rule,
    column_order_rule,
    frame_checks,
    nulls_rule,
    ranges_rule,
    schema_rule,
    unique_rule,
)
from churn_platform.orchestration.checks.gates import churn_rate_rule, class_balance_rule, quarantine_rule, rows_rule
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema, Feature
from churn_platform.settings import MonitoringSettings

UNBOUNDED: Final = math.inf


def preparation_checks(
    schema: CustomerSchema, monitoring: MonitoringSettings, *, stored: bool = False
) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the prepared data of a schema.

    Args:
        schema: states types, ranges and categories, and how many rows may break them.
        monitoring: from which PSI on the customers of a new file count as others than those of the champion.
        stored: whether the checks read one column after the other, because the data may be larger than memory.
    """
    scaled = dict.fromkeys(schema.scaled, (0.0, 1.0))
    return [
        frame_checks("raw_customers", [quarantine_rule(schema), *raw_rules(schema)], stored=stored),
        frame_checks(
            "cleaned_customers",
            [
                *_customer_rules(schema, (each.name for each in schema.columns if each.missing in ("refuse", "drop"))),
                rows_rule(),
                class_balance_rule(schema),
                churn_rate_rule(schema),
            ],
            stored=stored,
        ),
        file_drift_check(schema, monitoring, stored=stored),
        # The scaler is fitted on the training split, so only there all scaled values are in 0..1.
        frame_checks("train_features", feature_rules(schema, scaled), stored=stored),
        frame_checks("test_features", feature_rules(schema), stored=stored),
    ]


def raw_rules(schema: CustomerSchema) -> list[Rule]:
    """Return the rules of the rows that the reader does not quarantine."""
    return _customer_rules(schema, (column.name for column in schema.columns if not column.nullable))


def _customer_rules(schema: CustomerSchema, known: Iterable[str]) -> list[Rule]:
    """Return the rules of raw columns, of which the known ones have no null."""
    return [
        schema_rule({column.name: _raw_dtype(column, schema) for column in schema.columns if not column.optional}),
        nulls_rule([*known], schema),
        ranges_rule(raw_ranges(schema), schema),
        categories_rule(
            {
                column.name: column.categories
                for column in schema.columns
                if column.categories and column.unknown == "refuse" and column.name != schema.target
            },
            schema,
        ),
        *(unique_rule(column.name, schema) for column in schema.columns if column.unique),
    ]


def _raw_dtype(column: Column, schema: CustomerSchema) -> str:
    """Return the dtype of a column of the file. The target is 0 or 1, however the file spells it."""
    if column.name == schema.target:
        return "float64" if column.nullable else "int64"
    return column.dtype


def raw_ranges(schema: CustomerSchema) -> dict[str, Bounds]:
    """Return the allowed range of each column that has one."""
    ranges: dict[str, Bounds] = {}
    for column in schema.columns:
        if column.name == schema.target:
            ranges[column.name] = (0, 1)
        elif column.minimum is not None or column.maximum is not None:
            ranges[column.name] = _bounds(column)
    return ranges


def _bounds(column: Column) -> Bounds:
    low, high = column.minimum, column.maximum
    if column.kind == "date":
        return (low if isinstance(low, date) else date.min, high if isinstance(high, date) else date.max)
    return (
        low if isinstance(low, int | float) else -UNBOUNDED,
        high if isinstance(high, int | float) else UNBOUNDED,
    )


def feature_rules(schema: CustomerSchema, scaled: Mapping[str, Bounds] | None = None) -> list[Rule]:
    """Return the rules of finished features.

    Args:
        schema: the customer schema.
        scaled: ranges of scaled features, if all values are known to be in them.
    """
    columns = (*schema.feature_names, schema.target)
    return [
        schema_rule(_feature_dtypes(schema)),
        nulls_rule(columns, schema),
        ranges_rule({**feature_ranges(schema), **(scaled or {})}, schema),
        column_order_rule(columns),
    ]


def feature_ranges(schema: CustomerSchema) -> dict[str, Bounds]:
    """Return the range of each feature that has one whatever the customers are, and of the target."""
    found = raw_ranges(schema)
    values = {
        each.name: found[each.column] for each in schema.features if each.transform == "value" and each.column in found
    }
    made = {each.name: _made_range(schema.column(each.column), each) for each in schema.features}
    return {**values, schema.target: (0, 1), **{name: bounds for name, bounds in made.items() if bounds is not None}}


def _made_range(column: Column, feature: Feature) -> Bounds | None:
    """Return the range of a feature that its column is not; None if it has none."""
    if feature.transform == "one_hot":
        return (0.0, 1.0)
    if feature.transform == "bands":
        return (0.0, float(len(column.bands) - 1))
    if feature.transform != "days_since" or column.since is None:
        return None
    low, high = column.minimum, column.maximum
    return (
        (low - column.since).days if isinstance(low, date) else -UNBOUNDED,
        (high - column.since).days if isinstance(high, date) else UNBOUNDED,
    )


def _feature_dtypes(schema: CustomerSchema) -> dict[str, str]:
    dtypes = {"min_max": "float64", "bands": "int8", "days_since": "int64", "one_hot": "int8"}
    features = {each.name: dtypes.get(each.transform) or schema.column(each.column).dtype for each in schema.features}
    return {**features, schema.target: "int64"}
