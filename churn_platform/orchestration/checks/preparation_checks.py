"""The asset checks of the preparation: which rules apply to which asset."""

import math

import dagster as dg

from churn_platform.features.binning import BAND_NAMES
from churn_platform.features.columns import BAND_COLUMN, FEATURES, NUMERIC_COLUMNS, TARGET
from churn_platform.features.scaling import COLUMNS_TO_SCALE
from churn_platform.orchestration.assets.preparation import cleaned_customers, test_features, train_features
from churn_platform.orchestration.assets.raw import raw_customers
from churn_platform.orchestration.checks.frames import (
    Rule,
    categories_rule,
    column_order_rule,
    frame_checks,
    nulls_rule,
    ranges_rule,
    schema_rule,
    unique_rule,
)
from churn_platform.schema.columns import COLUMNS, COLUMNS_BY_NAME

RAW_RANGES = {
    column.name: (
        -math.inf if column.minimum is None else column.minimum,
        math.inf if column.maximum is None else column.maximum,
    )
    for column in COLUMNS
    if column.minimum is not None or column.maximum is not None
}
RAW_UNIQUE = [column.name for column in COLUMNS if column.unique]
RAW_CATEGORIES = {column.name: column.categories for column in COLUMNS if column.categories}
ONE_HOT_COLUMNS = FEATURES[FEATURES.index(BAND_COLUMN) + 1 :]
FEATURE_RANGES = {
    **{name: RAW_RANGES[name] for name in (*NUMERIC_COLUMNS, TARGET) if name not in COLUMNS_TO_SCALE},
    BAND_COLUMN: (0.0, float(len(BAND_NAMES) - 1)),
    **dict.fromkeys(ONE_HOT_COLUMNS, (0.0, 1.0)),
}
FEATURE_DTYPES = {
    **{name: "float64" if name in COLUMNS_TO_SCALE else COLUMNS_BY_NAME[name].dtype for name in NUMERIC_COLUMNS},
    BAND_COLUMN: "int8",
    **dict.fromkeys(ONE_HOT_COLUMNS, "int8"),
    TARGET: "int64",
}


def _raw_schema() -> Rule:
    return schema_rule({column.name: column.dtype for column in COLUMNS if not column.optional})


def _customer_rules(*nullable: str) -> list[Rule]:
    return [
        _raw_schema(),
        nulls_rule([column.name for column in COLUMNS if column.name not in nullable]),
        ranges_rule(RAW_RANGES),
        categories_rule(RAW_CATEGORIES),
        *(unique_rule(name) for name in RAW_UNIQUE),
    ]


def _feature_rules(ranges: dict[str, tuple[float, float]]) -> list[Rule]:
    columns = (*FEATURES, TARGET)
    return [schema_rule(FEATURE_DTYPES), nulls_rule(columns), ranges_rule(ranges), column_order_rule(columns)]


RAW_RULES = _customer_rules(*(column.name for column in COLUMNS if column.nullable))

PREPARATION_CHECKS: list[dg.AssetChecksDefinition] = [
    frame_checks(raw_customers, RAW_RULES),
    frame_checks(
        cleaned_customers,
        _customer_rules(*(column.name for column in COLUMNS if column.missing in ("imputed", "ignored"))),
    ),
    # The scaler is fitted on the training split, so only there all scaled values are in 0..1.
    frame_checks(train_features, _feature_rules({**FEATURE_RANGES, **dict.fromkeys(COLUMNS_TO_SCALE, (0.0, 1.0))})),
    frame_checks(test_features, _feature_rules(FEATURE_RANGES)),
]
