"""From raw customers to the features of a model. Every step is fitted on the training split only."""

import json
from typing import TypedDict

import dagster as dg
import pandas as pd

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
from churn_platform.orchestration.assets.column_schema import column_metadata
from churn_platform.orchestration.assets.training_inputs import file_hash
from churn_platform.orchestration.assets.ui_metadata import distributions, next_asset, preview
from churn_platform.schema.columns import COLUMN_NAMES


class Common(TypedDict):
    """What all assets of this group have in common."""

    group_name: str
    owners: list[str]
    code_version: str


PREPARATION = Common(group_name="preparation", owners=["team:ml-platform"], code_version="1")
OUTCOME = (TARGET, SPLIT)
UNBINNED = tuple(name for name in FEATURES if name != BAND_COLUMN)
SPLIT_COLUMNS = (*COLUMN_NAMES, SPLIT)
IMPUTED_COLUMNS = (*INPUT_COLUMNS, *OUTCOME)
ENCODED_COLUMNS = (*UNBINNED, *OUTCOME)
FEATURE_COLUMNS = (*FEATURES, *OUTCOME)
MODEL_METADATA = column_metadata(
    (*FEATURES, TARGET),
    upstream="scaled_features",
    upstream_names=FEATURE_COLUMNS,
    scaled=COLUMNS_TO_SCALE,
    imputed=True,
)


@dg.asset(
    **PREPARATION,
    kinds={"pandas"},
    metadata=column_metadata(COLUMN_NAMES, upstream="raw_customers", upstream_names=COLUMN_NAMES),
)
def cleaned_customers(raw_customers: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """Customers with a known Gender, typed. No other rows are dropped, and nothing is imputed yet.

    Rows with a null Gender are dropped, because a third category would encode the missing value. (In the stream, such
    an event becomes a dead letter.) A null Age stays, for [feature_imputer](/assets/feature_imputer). The code is
    `features/cleaning.py`.
    """
    cleaned = clean(raw_customers)
    return dg.MaterializeResult(
        value=cleaned,
        metadata={
            "dagster/row_count": len(cleaned),
            "dropped_null_gender": len(raw_customers) - len(cleaned),
            "null_age": int(cleaned["Age"].isna().sum()),
            "churn_rate_percent": _churn_rate(cleaned),
            **file_hash(cleaned),
            **distributions(cleaned, "Gender", "Age"),
            **preview(cleaned),
            **next_asset("train_test_split"),
        },
    )


@dg.asset(
    **PREPARATION,
    kinds={"pandas", "scikitlearn"},
    metadata=column_metadata(SPLIT_COLUMNS, upstream="cleaned_customers", upstream_names=COLUMN_NAMES),
)
def train_test_split(cleaned_customers: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """The cleaned customers with a column `split`: a fifth is test, with a fixed seed and stratified by Exited.

    The split is by CustomerId: no customer is in both splits, even if the file has several rows of one.

    Everything that is fitted (imputer, encoder, scaler, model, threshold) uses the training split only. The test split
    is used once, by [model_evaluation](/assets/model_evaluation). The code is `modeling/splitting.py`.
    """
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
            **file_hash(customers),
            **distributions(customers, SPLIT),
            **next_asset("feature_imputer"),
        },
    )


@dg.asset(**PREPARATION, kinds={"numpy"})
def feature_imputer(train_test_split: pd.DataFrame) -> dg.MaterializeResult[Imputer]:
    """Replacements for missing values: medians of the numeric columns and the mode of Geography, in the training split.

    A fitted step, stored as JSON. It becomes part of the model's bundle, so the stream imputes exactly as training did.
    It uses medians because ages and balances have long tails. The code is `features/imputing.py`.
    """
    train = rows_of(train_test_split, TRAIN, INPUT_COLUMNS)
    imputer = Imputer.fit(train)
    return dg.MaterializeResult(
        value=imputer,
        metadata={
            "imputer": _json(imputer),
            "fitted_rows": len(train),
            "median_age_years": imputer.medians["Age"],
            **next_asset("imputed_features"),
        },
    )


@dg.asset(
    **PREPARATION,
    kinds={"numpy", "pandas"},
    metadata=column_metadata(IMPUTED_COLUMNS, upstream="train_test_split", upstream_names=SPLIT_COLUMNS, imputed=True),
)
def imputed_features(train_test_split: pd.DataFrame, feature_imputer: Imputer) -> dg.MaterializeResult[pd.DataFrame]:
    """The raw columns of the features, of both splits, with missing values replaced.

    [feature_imputer](/assets/feature_imputer) replaces them, in the stream as well. Names and ids are dropped here,
    because no feature uses them.
    """
    imputed = _frame(feature_imputer.impute(columns_of(train_test_split)), train_test_split)
    return dg.MaterializeResult(
        value=imputed,
        metadata={
            "dagster/row_count": len(imputed),
            "imputed_values": int(train_test_split[[*INPUT_COLUMNS]].isna().sum().sum()),
            **distributions(imputed, "Age"),
            **preview(imputed),
            **next_asset("encoded_features"),
        },
    )


@dg.asset(**PREPARATION, kinds={"numpy"})
def feature_encoder(imputed_features: pd.DataFrame) -> dg.MaterializeResult[OneHotEncoder]:
    """One-hot encoding of Geography and Gender: the categories of the training split, in alphabetical order.

    A fitted step, stored as JSON. It becomes part of the model's bundle. There is one column for each category, because
    countries have no order. The code is `features/encoding.py`.
    """
    train = rows_of(imputed_features, TRAIN, CATEGORICAL_COLUMNS)
    encoder = OneHotEncoder.fit(train)
    return dg.MaterializeResult(
        value=encoder,
        metadata={
            "encoder": _json(encoder),
            "fitted_rows": len(train),
            "binary_columns": sum(len(names) for names in encoder.binary_columns.values()),
            **next_asset("encoded_features"),
        },
    )


@dg.asset(**PREPARATION, kinds={"numpy"})
def feature_scaler(imputed_features: pd.DataFrame) -> dg.MaterializeResult[MinMaxScaler]:
    """Min-max scaling of Balance, EstimatedSalary and Age: the minima and maxima of the training split.

    A fitted step, stored as JSON. It becomes part of the model's bundle. Values beyond the range, in the test split or
    in the stream, give features outside 0..1 and are not clipped. The code is `features/scaling.py`.
    """
    train = rows_of(imputed_features, TRAIN, COLUMNS_TO_SCALE)
    scaler = MinMaxScaler.fit(train)
    return dg.MaterializeResult(
        value=scaler, metadata={"scaler": _json(scaler), "fitted_rows": len(train), **next_asset("scaled_features")}
    )


@dg.asset(
    **PREPARATION,
    kinds={"numpy", "pandas"},
    metadata=column_metadata(
        ENCODED_COLUMNS, upstream="imputed_features", upstream_names=IMPUTED_COLUMNS, imputed=True
    ),
)
def encoded_features(
    imputed_features: pd.DataFrame, feature_encoder: OneHotEncoder
) -> dg.MaterializeResult[pd.DataFrame]:
    """The imputed columns of both splits, with Geography and Gender as columns of 0 and 1.

    [feature_encoder](/assets/feature_encoder) encodes them, in the stream as well.
    """
    encoded = _frame(feature_encoder.encode(columns_of(imputed_features)), imputed_features)
    return dg.MaterializeResult(
        value=encoded,
        metadata={
            "dagster/row_count": len(encoded),
            **distributions(encoded, "Geography_France", "Geography_Germany", "Geography_Spain", "Gender_Female"),
            **preview(encoded),
            **next_asset("binned_features"),
        },
    )


@dg.asset(
    **PREPARATION,
    kinds={"numpy", "pandas"},
    metadata=column_metadata(
        FEATURE_COLUMNS, upstream="encoded_features", upstream_names=ENCODED_COLUMNS, imputed=True
    ),
)
def binned_features(encoded_features: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """The encoded columns of both splits, with the bank's five credit score bands in CreditScoreBins.

    | Poor 0 | Fair 1 | Good 2 | Very Good 3 | Excellent 4 |
    |---|---|---|---|---|
    | to 580 points | to 670 | to 740 | to 800 | above |

    The bands are those of the bank's scorecard, with inclusive upper bounds. The code is `features/binning.py`.
    """
    columns = add_credit_score_band(columns_of(encoded_features, UNBINNED))
    binned = _frame({name: columns[name] for name in FEATURES}, encoded_features)
    counts = binned[BAND_COLUMN].value_counts()
    bands = {f"band_{name.lower().replace(' ', '_')}": int(counts.get(code, 0)) for code, name in enumerate(BAND_NAMES)}
    return dg.MaterializeResult(
        value=binned,
        metadata={
            "dagster/row_count": len(binned),
            **bands,
            **distributions(binned, BAND_COLUMN, "CreditScore"),
            **next_asset("scaled_features"),
        },
    )


@dg.asset(
    **PREPARATION,
    kinds={"numpy", "pandas"},
    metadata=column_metadata(
        FEATURE_COLUMNS,
        upstream="binned_features",
        upstream_names=FEATURE_COLUMNS,
        scaled=COLUMNS_TO_SCALE,
        imputed=True,
    ),
)
def scaled_features(binned_features: pd.DataFrame, feature_scaler: MinMaxScaler) -> dg.MaterializeResult[pd.DataFrame]:
    """All 14 features of both splits, with Balance, EstimatedSalary and Age scaled. Test values may be outside 0..1.

    [feature_scaler](/assets/feature_scaler) scales them, in the stream as well. The columns have the order in which the
    model reads them (`features/columns.py`).
    """
    scaled = _frame(feature_scaler.scale(columns_of(binned_features, FEATURES)), binned_features)
    return dg.MaterializeResult(
        value=scaled,
        metadata={
            "dagster/row_count": len(scaled),
            **distributions(scaled, *COLUMNS_TO_SCALE),
            **preview(scaled),
            **next_asset("train_features"),
        },
    )


@dg.asset(**PREPARATION, kinds={"pandas"}, metadata=MODEL_METADATA)
def train_features(scaled_features: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """The 14 features and Exited of the training split: the input of the training.

    The stream computes the same features with the same code (`features/transform.py`). `model_evaluation` fails if the
    bundle's scores of raw rows differ from those of prepared features.
    """
    return _features_of(scaled_features, TRAIN, followed_by="churn_model")


@dg.asset(**PREPARATION, kinds={"pandas"}, metadata=MODEL_METADATA)
def test_features(scaled_features: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """The 14 features and Exited of the test split, for the evaluation of a model.

    Nothing is fitted on them, and no threshold is chosen on them.
    """
    return _features_of(scaled_features, TEST, followed_by="model_evaluation")


def _features_of(scaled_features: pd.DataFrame, split: str, *, followed_by: str) -> dg.MaterializeResult[pd.DataFrame]:
    rows = rows_of(scaled_features, split)
    return dg.MaterializeResult(
        value=rows,
        metadata={
            "dagster/row_count": len(rows),
            "features": len(FEATURES),
            "churned_rows": int(rows[TARGET].sum()),
            "churn_rate_percent": _churn_rate(rows),
            **distributions(rows, TARGET, "Age", "NumOfProducts"),
            **preview(rows),
            **next_asset(followed_by),
        },
    )


def _frame(columns: Columns, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the columns as a frame, with outcome, split and `attrs` of `rows`. Unchanged arrays are shared."""
    frame = pd.DataFrame({**columns, **{name: rows[name].to_numpy() for name in OUTCOME}}, copy=False)
    frame.attrs = dict(rows.attrs)
    return frame


def _churn_rate(customers: pd.DataFrame) -> float:
    return round(100 * float(customers[TARGET].mean()), 2)


def _json(step: Imputer | OneHotEncoder | MinMaxScaler) -> dg.JsonMetadataValue:
    return dg.MetadataValue.json(json.loads(step.to_json()))
