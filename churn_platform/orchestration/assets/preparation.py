"""From raw customers to the features of a model. Every step is fitted on the training split only."""

import json
from collections.abc import Iterable
from typing import TypedDict

import dagster as dg
import pandas as pd

from churn_platform.features.cleaning import clean
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.files.stored_frame import Frame
from churn_platform.modeling.outcome_rows import WEIGHT, with_outcomes
from churn_platform.modeling.prepared import Tables, binned_frame, encoded_frame, imputed_frame, scaled_frame
from churn_platform.modeling.splitting import SPLIT, TEST, TRAIN, rows_of, with_split
from churn_platform.orchestration.assets.column_schema import column_metadata
from churn_platform.orchestration.assets.training_inputs import file_hash, outcomes_hash
from churn_platform.orchestration.assets.ui_metadata import (
    Metadata,
    distributions,
    next_asset,
    null_counts,
    preview,
    private_columns,
)
from churn_platform.orchestration.io_managers.parquet import COLUMNS
from churn_platform.schema.columns import Column, Missing, snake_case
from churn_platform.schema.customer_schema import CustomerSchema


class Common(TypedDict):
    """What all assets of this group have in common."""

    group_name: str
    owners: list[str]
    code_version: str


PREPARATION = Common(group_name="preparation", owners=["team:ml-platform"], code_version="2")


def preparation_assets(schema: CustomerSchema, *, train_on_outcomes: bool = False) -> list[dg.AssetsDefinition]:
    """Return the assets that prepare the customers of a schema.

    Args:
        schema: of the customers.
        train_on_outcomes: whether the labelled customers join the training split.
    """
    tables = Tables(schema)
    return [
        *_splitting_assets(schema, tables, train_on_outcomes=train_on_outcomes),
        *_imputing_assets(schema, tables),
        *_encoding_assets(schema, tables),
        *_scaling_assets(schema, tables),
        *_feature_assets(schema, tables),
    ]


def _splitting_assets(schema: CustomerSchema, tables: Tables, *, train_on_outcomes: bool) -> list[dg.AssetsDefinition]:
    @dg.asset(
        **PREPARATION,
        kinds={"pandas"},
        metadata=column_metadata(schema, schema.names, upstream="raw_customers", upstream_names=schema.names),
        description=_cleaning_text(schema),
    )
    def cleaned_customers(raw_customers: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
        nulls = dropped_nulls(raw_customers, schema)
        cleaned = clean(raw_customers, schema, consume=True)
        return dg.MaterializeResult(value=cleaned, metadata=cleaned_metadata(cleaned, tables, dropped=nulls))

    def of_the_file(cleaned_customers: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
        return _split_result(with_split(cleaned_customers, schema), schema)

    def of_the_file_and_outcomes(
        cleaned_customers: pd.DataFrame, labelled_customers: pd.DataFrame
    ) -> dg.MaterializeResult[pd.DataFrame]:
        joined = with_outcomes(with_split(cleaned_customers, schema), labelled_customers, schema)
        joined.attrs |= outcomes_hash(labelled_customers)
        return _split_result(joined, schema)

    description = f"""The cleaned customers with a column `split`: a fifth is test, with a fixed seed and stratified \
by {schema.target}.

The split is by {schema.id}: no customer is in both splits, even if the file has several rows of one.

Everything that is fitted (imputer, encoder, scaler, model, threshold) uses the training split only. The test split is
used once, by [model_evaluation](/assets/model_evaluation). The code is `modeling/splitting.py`."""
    if train_on_outcomes:
        description += """

The [labelled_customers](/assets/labelled_customers) are in the training split as well (`TRAIN_ON_OUTCOMES`), without
those of the test split. `training_weight` is the number of customers that a row stands for. The code is
`modeling/outcome_rows.py`."""
    train_test_split = dg.asset(
        name="train_test_split",
        **PREPARATION,
        kinds={"pandas"},
        metadata=column_metadata(
            schema,
            (*tables.split, *((WEIGHT,) if train_on_outcomes else ())),
            upstream="cleaned_customers",
            upstream_names=schema.names,
        ),
        description=description,
    )(of_the_file_and_outcomes if train_on_outcomes else of_the_file)

    return [cleaned_customers, train_test_split]


def _split_result(customers: pd.DataFrame, schema: CustomerSchema) -> dg.MaterializeResult[pd.DataFrame]:
    return dg.MaterializeResult(value=customers, metadata=split_metadata(customers, schema))


def _imputing_assets(schema: CustomerSchema, tables: Tables) -> list[dg.AssetsDefinition]:
    medians = _of(schema, "median")
    modes = _of(schema, "mode")
    constants = _of(schema, "constant")

    @dg.asset(
        **PREPARATION,
        ins={"train_test_split": _only(*schema.feature_columns, SPLIT)},
        kinds={"numpy"},
        description=f"""Replacements for missing values: medians and modes of the training split, and constants.

- Median: {_listed(medians) or "no column needs one"}.
- Most frequent category: {_listed(modes) or "no column needs one"}.
- Constant: {_listed(constants) or "no column has one"}.

A fitted step, stored as JSON. It becomes part of the model's bundle, so the stream imputes exactly as training did. It
uses medians rather than means because many amounts have long tails. The code is `features/imputing.py`.""",
    )
    def feature_imputer(train_test_split: pd.DataFrame) -> dg.MaterializeResult[Imputer]:
        train = rows_of(train_test_split, TRAIN, schema.feature_columns, consume=True)
        imputer = Imputer.fit(train, schema)
        return dg.MaterializeResult(
            value=imputer,
            metadata=imputer_metadata(imputer, schema, fitted_rows=len(train)),
        )

    @dg.asset(
        **PREPARATION,
        ins={"train_test_split": _only(*tables.imputed)},
        kinds={"numpy", "pandas"},
        metadata=column_metadata(
            schema, tables.imputed, upstream="train_test_split", upstream_names=tables.split, imputed=True
        ),
        description="""The raw columns of the features, of both splits, with missing values replaced.

[feature_imputer](/assets/feature_imputer) replaces them, in the stream as well. Names, ids and other columns are
dropped here, because no feature uses them.""",
    )
    def imputed_features(
        train_test_split: pd.DataFrame, feature_imputer: Imputer
    ) -> dg.MaterializeResult[pd.DataFrame]:
        imputed = imputed_frame(train_test_split, feature_imputer, tables)
        return dg.MaterializeResult(
            value=imputed,
            metadata=imputed_metadata(imputed, train_test_split, tables),
        )

    return [feature_imputer, imputed_features]


def _encoding_assets(schema: CustomerSchema, tables: Tables) -> list[dg.AssetsDefinition]:
    encoded_columns = _listed(schema.encoded) or "no column"

    @dg.asset(
        **PREPARATION,
        ins={"imputed_features": _only(*schema.encoded, SPLIT)},
        kinds={"numpy"},
        description=f"""One-hot encoding of {encoded_columns}: the categories of the customer schema, in its order.

Stored as JSON. It becomes part of the model's bundle. There is one column for each category, because categories have no
order. A category of the schema that no customer has gets a column, too. The code is `features/encoding.py`.""",
    )
    def feature_encoder(imputed_features: pd.DataFrame) -> dg.MaterializeResult[OneHotEncoder]:
        train = rows_of(imputed_features, TRAIN, schema.encoded)
        encoder = OneHotEncoder.fit(train, schema)
        return dg.MaterializeResult(
            value=encoder,
            metadata=encoder_metadata(encoder, fitted_rows=len(train)),
        )

    @dg.asset(
        **PREPARATION,
        kinds={"numpy", "pandas"},
        metadata=column_metadata(
            schema, tables.encoded, upstream="imputed_features", upstream_names=tables.imputed, imputed=True
        ),
        description=f"""The imputed columns of both splits, with {encoded_columns} as columns of 0 and 1.

[feature_encoder](/assets/feature_encoder) encodes them, in the stream as well.""",
    )
    def encoded_features(
        imputed_features: pd.DataFrame, feature_encoder: OneHotEncoder
    ) -> dg.MaterializeResult[pd.DataFrame]:
        encoded = encoded_frame(imputed_features, feature_encoder, tables)
        return dg.MaterializeResult(
            value=encoded,
            metadata=encoded_metadata(encoded, tables),
        )

    @dg.asset(
        **PREPARATION,
        kinds={"numpy", "pandas"},
        metadata=column_metadata(
            schema, tables.features, upstream="encoded_features", upstream_names=tables.encoded, imputed=True
        ),
        description=f"""The encoded columns of both splits, with bands of numbers and days of dates.

{_bands_text(schema)}{_days_text(schema)}Upper bounds of bands are inclusive. The code is `features/binning.py` and
`features/dates.py`.""",
    )
    def binned_features(encoded_features: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
        binned = binned_frame(encoded_features, tables)
        return dg.MaterializeResult(value=binned, metadata=binned_metadata(binned, tables))

    return [feature_encoder, encoded_features, binned_features]


def _scaling_assets(schema: CustomerSchema, tables: Tables) -> list[dg.AssetsDefinition]:
    scaled_columns = _listed(schema.scaled) or "no column"

    @dg.asset(
        **PREPARATION,
        ins={"imputed_features": _only(*schema.scaled, SPLIT)},
        kinds={"numpy"},
        description=f"""Min-max scaling of {scaled_columns}: the minima and maxima of the training split.

A fitted step, stored as JSON. It becomes part of the model's bundle. Values beyond the range, in the test split or in
the stream, give features outside 0..1 and are not clipped. The code is `features/scaling.py`.""",
    )
    def feature_scaler(imputed_features: pd.DataFrame) -> dg.MaterializeResult[MinMaxScaler]:
        train = rows_of(imputed_features, TRAIN, schema.scaled)
        scaler = MinMaxScaler.fit(train, schema)
        return dg.MaterializeResult(
            value=scaler,
            metadata=scaler_metadata(scaler, fitted_rows=len(train)),
        )

    @dg.asset(
        **PREPARATION,
        kinds={"numpy", "pandas"},
        metadata=column_metadata(
            schema,
            tables.features,
            upstream="binned_features",
            upstream_names=tables.features,
            scaled=schema.scaled,
            imputed=True,
        ),
        description=f"""All {len(schema.features)} features of both splits, with {scaled_columns} scaled. Test values \
may be outside 0..1.

[feature_scaler](/assets/feature_scaler) scales them, in the stream as well. The columns have the order in which the
model reads them: numbers, bands, days, then categories, each in the order of the customer schema.""",
    )
    def scaled_features(
        binned_features: pd.DataFrame, feature_scaler: MinMaxScaler
    ) -> dg.MaterializeResult[pd.DataFrame]:
        scaled = scaled_frame(binned_features, feature_scaler, tables)
        return dg.MaterializeResult(
            value=scaled,
            metadata=scaled_metadata(scaled, schema),
        )

    return [feature_scaler, scaled_features]


def _feature_assets(schema: CustomerSchema, tables: Tables) -> list[dg.AssetsDefinition]:
    model_metadata = column_metadata(
        schema,
        (*schema.feature_names, schema.target),
        upstream="scaled_features",
        upstream_names=tables.features,
        scaled=schema.scaled,
        imputed=True,
    )

    def features_of(
        scaled_features: pd.DataFrame, split: str, *, followed_by: str
    ) -> dg.MaterializeResult[pd.DataFrame]:
        rows = rows_of(scaled_features, split, consume=True)
        return dg.MaterializeResult(value=rows, metadata=features_metadata(rows, schema, followed_by=followed_by))

    @dg.asset(
        **PREPARATION,
        kinds={"pandas"},
        metadata=model_metadata,
        description=f"""The {len(schema.features)} features and {schema.target} of the training split: the input of \
the training.

The stream computes the same features with the same code (`features/transform.py`). `model_evaluation` fails if the
bundle's scores of raw rows differ from those of prepared features.""",
    )
    def train_features(scaled_features: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
        return features_of(scaled_features, TRAIN, followed_by="churn_model")

    @dg.asset(
        **PREPARATION,
        kinds={"pandas"},
        metadata=model_metadata,
        description=f"""The {len(schema.features)} features and {schema.target} of the test split, for the evaluation \
of a model.

Nothing is fitted on them, and no threshold is chosen on them.""",
    )
    def test_features(scaled_features: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
        return features_of(scaled_features, TEST, followed_by="model_evaluation")

    return [train_features, test_features]


def _only(*columns: str) -> dg.AssetIn:
    """Return an input of a step that reads only these columns of a frame."""
    return dg.AssetIn(metadata={COLUMNS: list(columns)})


def dropped_nulls(raw: Frame, schema: CustomerSchema) -> Metadata:
    """Return how many rows of raw_customers lack a value without which they are dropped, by column."""
    return {
        f"dropped_null_{schema.column(name).column}": int(raw[name].isna().sum())
        for name in schema.dropped
        if name in raw
    }


def cleaned_metadata(cleaned: Frame, tables: Tables, *, dropped: Metadata) -> Metadata:
    """Return the metadata of cleaned_customers; `dropped` is what `dropped_nulls` returned."""
    schema = tables.schema
    return {
        "dagster/row_count": len(cleaned),
        **dropped,
        **{name: count for name, count in null_counts(cleaned, schema).items() if f"dropped_{name}" not in dropped},
        "churn_rate_percent": _churn_rate(cleaned, schema),
        **file_hash(cleaned),
        **distributions(cleaned, *tables.may_be_missing),
        **preview(cleaned, without=private_columns(schema)),
        **next_asset("train_test_split"),
    }


def split_metadata(customers: Frame, schema: CustomerSchema) -> Metadata:
    """Return the metadata of train_test_split."""
    target, split = customers[schema.target], customers[SPLIT]
    train, test = (target[(split == each).to_numpy()] for each in (TRAIN, TEST))
    return {
        "dagster/row_count": len(customers),
        "train_rows": len(train),
        "test_rows": len(test),
        "train_churn_rate_percent": _percent(train),
        "test_churn_rate_percent": _percent(test),
        **file_hash(customers),
        **outcomes_hash(customers),
        **distributions(customers, SPLIT),
        **next_asset("feature_imputer"),
    }


def imputer_metadata(imputer: Imputer, schema: CustomerSchema, *, fitted_rows: int) -> Metadata:
    """Return the metadata of feature_imputer."""
    return {
        "imputer": _json(imputer),
        "fitted_rows": fitted_rows,
        **{_median_name(schema.column(name)): imputer.medians[name] for name in _of(schema, "median")},
        **next_asset("imputed_features"),
    }


def imputed_metadata(imputed: Frame, customers: Frame, tables: Tables) -> Metadata:
    """Return the metadata of imputed_features, which were made of the customers of train_test_split."""
    return {
        "dagster/row_count": len(imputed),
        "imputed_values": sum(int(customers[name].isna().sum()) for name in tables.replaced),
        **distributions(imputed, *tables.replaced),
        **preview(imputed),
        **next_asset("encoded_features"),
    }


def encoder_metadata(encoder: OneHotEncoder, *, fitted_rows: int) -> Metadata:
    """Return the metadata of feature_encoder."""
    return {
        "encoder": _json(encoder),
        "fitted_rows": fitted_rows,
        "binary_columns": sum(len(names) for names in encoder.binary_columns.values()),
        **next_asset("encoded_features"),
    }


def encoded_metadata(encoded: Frame, tables: Tables) -> Metadata:
    """Return the metadata of encoded_features."""
    return {
        "dagster/row_count": len(encoded),
        **distributions(encoded, *tables.made_by("one_hot")),
        **preview(encoded),
        **next_asset("binned_features"),
    }


def binned_metadata(binned: Frame, tables: Tables) -> Metadata:
    """Return the metadata of binned_features."""
    schema = tables.schema
    charted = (name for column in schema.banded for name in (column.bands_feature, column.name) if name in binned)
    return {
        "dagster/row_count": len(binned),
        **_band_counts(binned, schema),
        **distributions(binned, *charted, *tables.made_by("days_since")),
        **next_asset("scaled_features"),
    }


def scaler_metadata(scaler: MinMaxScaler, *, fitted_rows: int) -> Metadata:
    """Return the metadata of feature_scaler."""
    return {"scaler": _json(scaler), "fitted_rows": fitted_rows, **next_asset("scaled_features")}


def scaled_metadata(scaled: Frame, schema: CustomerSchema) -> Metadata:
    """Return the metadata of scaled_features."""
    return {
        "dagster/row_count": len(scaled),
        **distributions(scaled, *schema.scaled),
        **preview(scaled),
        **next_asset("train_features"),
    }


def features_metadata(rows: Frame, schema: CustomerSchema, *, followed_by: str) -> Metadata:
    """Return the metadata of train_features or test_features."""
    segments = (column.name for column in schema.segments if column.name in schema.feature_names)
    return {
        "dagster/row_count": len(rows),
        "features": len(schema.features),
        "churned_rows": int(rows[schema.target].sum()),
        "churn_rate_percent": _churn_rate(rows, schema),
        **distributions(rows, schema.target, *segments),
        **preview(rows),
        **next_asset(followed_by),
    }


def _percent(churned: pd.Series) -> float:
    return round(100 * float(churned.mean()), 2)


def _churn_rate(customers: Frame, schema: CustomerSchema) -> float:
    return _percent(customers[schema.target])


def _json(step: Imputer | OneHotEncoder | MinMaxScaler) -> dg.JsonMetadataValue:
    return dg.MetadataValue.json(json.loads(step.to_json()))


def _listed(names: Iterable[str], last: str = "and") -> str:
    """Return names as text, such as "Age, Balance and Tenure"; empty without names."""
    *others, final = [*names] or [""]
    return f"{', '.join(others)} {last} {final}" if others else final


def _of(schema: CustomerSchema, missing: Missing) -> tuple[str, ...]:
    """Return the columns of the features whose missing values are handled in this way."""
    return tuple(name for name in schema.feature_columns if schema.column(name).missing == missing)


def _median_name(column: Column) -> str:
    """Return the name of a median in the metadata: with its unit, such as median_tenure_years."""
    return "_".join(filter(None, ("median", column.column, snake_case(column.unit or ""))))


def _band_counts(binned: Frame, schema: CustomerSchema) -> Metadata:
    """Return the number of rows in each band. With several banded columns, their features are part of the names."""
    counts: Metadata = {}
    for column in schema.banded:
        found = binned[column.bands_feature].value_counts()
        prefix = "band" if len(schema.banded) == 1 else snake_case(column.bands_feature)
        counts |= {
            f"{prefix}_{snake_case(band.name)}": int(found.get(code, 0)) for code, band in enumerate(column.bands)
        }
    return counts


def _cleaning_text(schema: CustomerSchema) -> str:
    """Return the description of cleaned_customers."""
    if not schema.dropped:
        summary = "Customers, typed. No rows are dropped, and nothing is imputed yet."
        reason = "Missing values stay,"
    else:
        summary = (
            f"Customers with a known {_listed(schema.dropped)}, typed. No other rows are dropped, and nothing is "
            f"imputed yet."
        )
        reason = (
            f"Rows with a null {_listed(schema.dropped, 'or')} are dropped, because a category of its own would encode "
            f"the missing value. (In the stream, such an event becomes a dead letter.) Other missing values stay,"
        )
    code = "The code is `features/cleaning.py`."
    return f"{summary}\n\n{reason} for [feature_imputer](/assets/feature_imputer). {code}"


def _bands_text(schema: CustomerSchema) -> str:
    """Return a table of bands for each banded column."""
    texts = []
    for column in schema.banded:
        unit = f" {column.unit}" if column.unit else ""
        names = " | ".join(f"{band.name} {code}" for code, band in enumerate(column.bands))
        bounds = " | ".join(
            "above" if band.upper_bound is None else f"to {band.upper_bound:,.10g}{'' if code else unit}"
            for code, band in enumerate(column.bands)
        )
        rule = "---|" * len(column.bands)
        texts.append(f"{column.bands_feature}, of {column.name}:\n\n| {names} |\n|{rule}\n| {bounds} |\n\n")
    return "".join(texts)


def _days_text(schema: CustomerSchema) -> str:
    """Return what the days of each date are."""
    return "".join(
        f"- {column.days_feature}: days from {column.since} to {column.name}.\n" for column in schema.dated
    ) + ("\n" if schema.dated else "")
