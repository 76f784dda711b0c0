"""From raw customers to the features that a model reads. Every fitted step sees the training split only."""

import json
from typing import TypedDict

import dagster as dg
import pandas as pd

from churn_platform.assets.column_schema import column_schema
from churn_platform.customers.schema import COLUMN_NAMES
from churn_platform.features.binning import BAND_NAMES, add_credit_score_band
from churn_platform.features.cleaning import clean
from churn_platform.features.columns import (
    BAND_COLUMN,
    CATEGORICAL_COLUMNS,
    FEATURES,
    INPUT_COLUMNS,
    TARGET,
    Columns,
    columns_of,
)
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import COLUMNS_TO_SCALE, MinMaxScaler
from churn_platform.modeling.splitting import SPLIT, TEST, TRAIN, rows_of, with_split


class Common(TypedDict):
    """What all assets of this group have in common."""

    group_name: str
    owners: list[str]
    code_version: str


PREPARATION = Common(group_name="preparation", owners=["team:ml-platform"], code_version="1")
OUTCOME = (TARGET, SPLIT)
UNBINNED = tuple(name for name in FEATURES if name != BAND_COLUMN)


def _schema(*names: str, scaled: tuple[str, ...] = (), imputed: bool = True) -> dict[str, dg.TableSchema]:
    return {"dagster/column_schema": column_schema(names, scaled=scaled, imputed=imputed)}


@dg.asset(**PREPARATION, kinds={"pandas"}, metadata=_schema(*COLUMN_NAMES, imputed=False))
def cleaned_customers(raw_customers: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """Customers with a known Gender, typed.

    A null Gender drops the row: a third category would leak the gap into the encoding.
    """
    cleaned = clean(raw_customers)
    return dg.MaterializeResult(
        value=cleaned,
        metadata={
            "dagster/row_count": len(cleaned),
            "dropped_null_gender": len(raw_customers) - len(cleaned),
            "null_age": int(cleaned["Age"].isna().sum()),
            "churn_rate_percent": _churn_rate(cleaned),
        },
    )


@dg.asset(**PREPARATION, kinds={"pandas", "scikitlearn"}, metadata=_schema(*COLUMN_NAMES, SPLIT, imputed=False))
def train_test_split(cleaned_customers: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """The cleaned customers, each marked train or test: a fifth is test, by a fixed seed and stratified by Exited."""
    customers = with_split(cleaned_customers, TARGET)
    train, test = (customers.loc[customers[SPLIT] == split, [TARGET]] for split in (TRAIN, TEST))
    return dg.MaterializeResult(
        value=customers,
        metadata={
            "dagster/row_count": len(customers),
            "train_rows": len(train),
            "test_rows": len(test),
            "train_churn_rate_percent": _churn_rate(train),
            "test_churn_rate_percent": _churn_rate(test),
        },
    )


@dg.asset(**PREPARATION, kinds={"numpy"})
def feature_imputer(train_test_split: pd.DataFrame) -> dg.MaterializeResult[Imputer]:
    """What stands in for a null: each numeric column's median and Geography's mode, over the training split."""
    train = rows_of(train_test_split, TRAIN, INPUT_COLUMNS)
    imputer = Imputer.fit(train)
    return dg.MaterializeResult(
        value=imputer,
        metadata={"imputer": _json(imputer), "fitted_rows": len(train), "median_age_years": imputer.medians["Age"]},
    )


@dg.asset(**PREPARATION, kinds={"numpy", "pandas"}, metadata=_schema(*INPUT_COLUMNS, *OUTCOME))
def imputed_features(train_test_split: pd.DataFrame, feature_imputer: Imputer) -> dg.MaterializeResult[pd.DataFrame]:
    """The raw columns that features are made of, of both splits, nulls replaced."""
    imputed = _frame(feature_imputer.impute(columns_of(train_test_split)), train_test_split)
    return dg.MaterializeResult(
        value=imputed,
        metadata={
            "dagster/row_count": len(imputed),
            "imputed_values": int(train_test_split[[*INPUT_COLUMNS]].isna().sum().sum()),
        },
    )


@dg.asset(**PREPARATION, kinds={"numpy"})
def feature_encoder(imputed_features: pd.DataFrame) -> dg.MaterializeResult[OneHotEncoder]:
    """One-hot encoding of Geography and Gender: the categories of the training split, alphabetical."""
    train = rows_of(imputed_features, TRAIN, CATEGORICAL_COLUMNS)
    encoder = OneHotEncoder.fit(train)
    return dg.MaterializeResult(
        value=encoder,
        metadata={
            "encoder": _json(encoder),
            "fitted_rows": len(train),
            "binary_columns": sum(len(names) for names in encoder.binary_columns.values()),
        },
    )


@dg.asset(**PREPARATION, kinds={"numpy"})
def feature_scaler(imputed_features: pd.DataFrame) -> dg.MaterializeResult[MinMaxScaler]:
    """Min-max scale of Balance, EstimatedSalary and Age: the training split's least and greatest values."""
    train = rows_of(imputed_features, TRAIN, COLUMNS_TO_SCALE)
    scaler = MinMaxScaler.fit(train)
    return dg.MaterializeResult(value=scaler, metadata={"scaler": _json(scaler), "fitted_rows": len(train)})


@dg.asset(**PREPARATION, kinds={"numpy", "pandas"}, metadata=_schema(*UNBINNED, *OUTCOME))
def encoded_features(
    imputed_features: pd.DataFrame, feature_encoder: OneHotEncoder
) -> dg.MaterializeResult[pd.DataFrame]:
    """The imputed columns of both splits with Geography and Gender as columns of 0 and 1."""
    encoded = _frame(feature_encoder.encode(columns_of(imputed_features)), imputed_features)
    return dg.MaterializeResult(value=encoded, metadata={"dagster/row_count": len(encoded)})


@dg.asset(**PREPARATION, kinds={"numpy", "pandas"}, metadata=_schema(*FEATURES, *OUTCOME))
def binned_features(encoded_features: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """The encoded columns of both splits with CreditScoreBins, the bank's five bands, beside CreditScore."""
    columns = add_credit_score_band(columns_of(encoded_features, UNBINNED))
    binned = _frame({name: columns[name] for name in FEATURES}, encoded_features)
    counts = binned[BAND_COLUMN].value_counts()
    bands = {f"band_{name.lower().replace(' ', '_')}": int(counts.get(code, 0)) for code, name in enumerate(BAND_NAMES)}
    return dg.MaterializeResult(value=binned, metadata={"dagster/row_count": len(binned), **bands})


@dg.asset(**PREPARATION, kinds={"numpy", "pandas"}, metadata=_schema(*FEATURES, *OUTCOME, scaled=COLUMNS_TO_SCALE))
def scaled_features(binned_features: pd.DataFrame, feature_scaler: MinMaxScaler) -> dg.MaterializeResult[pd.DataFrame]:
    """All 14 features of both splits, Balance, EstimatedSalary and Age scaled; a test value may lie outside 0..1."""
    scaled = _frame(feature_scaler.scale(columns_of(binned_features, FEATURES)), binned_features)
    return dg.MaterializeResult(value=scaled, metadata={"dagster/row_count": len(scaled)})


@dg.asset(**PREPARATION, kinds={"pandas"}, metadata=_schema(*FEATURES, TARGET, scaled=COLUMNS_TO_SCALE))
def train_features(scaled_features: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """The 14 features and Exited of the training split: what a model learns from."""
    return _features_of(scaled_features, TRAIN)


@dg.asset(**PREPARATION, kinds={"pandas"}, metadata=_schema(*FEATURES, TARGET, scaled=COLUMNS_TO_SCALE))
def test_features(scaled_features: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """The 14 features and Exited of the test split: what a model is judged on, once."""
    return _features_of(scaled_features, TEST)


def _features_of(scaled_features: pd.DataFrame, split: str) -> dg.MaterializeResult[pd.DataFrame]:
    rows = rows_of(scaled_features, split)
    return dg.MaterializeResult(
        value=rows,
        metadata={
            "dagster/row_count": len(rows),
            "features": len(FEATURES),
            "churned_rows": int(rows[TARGET].sum()),
            "churn_rate_percent": _churn_rate(rows),
        },
    )


def _frame(columns: Columns, rows: pd.DataFrame) -> pd.DataFrame:
    """The columns, with the outcome and the split of the rows that they were made of. Shares what did not change."""
    return pd.DataFrame({**columns, **{name: rows[name].to_numpy() for name in OUTCOME}}, copy=False)


def _churn_rate(customers: pd.DataFrame) -> float:
    return round(100 * float(customers[TARGET].mean()), 2)


def _json(step: Imputer | OneHotEncoder | MinMaxScaler) -> dg.JsonMetadataValue:
    return dg.MetadataValue.json(json.loads(step.to_json()))
