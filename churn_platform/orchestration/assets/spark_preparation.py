"""The raw and prepared customers by Spark, for a file that is larger than memory: the same assets as without it.

Their keys, descriptions and lineage are those of the assets in `raw.py` and `preparation.py`, and so are the files, the
metadata and the checks. Three steps of a run each start a driver of Spark. This process reads the files only column by
column, for the metadata.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from churn_platform.files.artifacts import ASSETS, join, read_bytes
from churn_platform.modeling.prepared import Tables
from churn_platform.modeling.splitting import SPLIT, TRAIN
from churn_platform.orchestration.assets import preparation as metadata_of
from churn_platform.orchestration.assets.preparation import preparation_assets
from churn_platform.orchestration.assets.raw import (
    QUARANTINED,
    RAW,
    file_observation,
    quarantined_metadata,
    raw_assets,
    raw_metadata,
)
from churn_platform.orchestration.assets.ui_metadata import Metadata
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.schema.current import customers_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import settings

if TYPE_CHECKING:  # the code server starts without pandas
    from churn_platform.files.stored_frame import StoredFrame
    from churn_platform.spark.preparation_order import FileRead

CLEANED: Final = "cleaned_customers"


def spark_preparation_assets(schema: CustomerSchema) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return the assets of the groups raw and preparation, prepared by Spark."""
    without_spark = [*raw_assets(schema), *preparation_assets(schema)]
    sources = [each for each in without_spark if isinstance(each, dg.AssetSpec)]
    made = [spec for each in without_spark if isinstance(each, dg.AssetsDefinition) for spec in each.specs]
    specs = {spec.key.to_user_string(): _by_spark(spec) for spec in made}
    tables = Tables(schema)

    @dg.multi_asset(name="read_customers_file", specs=[specs.pop(RAW), specs.pop(QUARANTINED)])
    def read_customers_file(
        context: dg.AssetExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        """Read the file, and write its customers and its quarantined rows, without those of erased customers."""
        place = customers_of(settings())
        file = _run(context, schema, postgres, "read")
        if file is None:
            raise TypeError("The driver has reported no file, although it has read one.")
        context.log_event(file_observation(file, place))
        counts = {"quarantined": file.quarantined, "duplicates": file.duplicates, "erased": file.erased}
        shown = raw_metadata(_stored(RAW), schema, counts, place=place, detected=file.detected)
        yield _result(RAW, shown)
        yield _result(QUARANTINED, quarantined_metadata(_stored(QUARANTINED), schema, rows=file.rows - file.erased))

    @dg.multi_asset(name=CLEANED, specs=[specs.pop(CLEANED)])
    def cleaned_customers(
        context: dg.AssetExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        """Write the customers that training uses."""
        _run(context, schema, postgres, "clean")
        dropped = metadata_of.dropped_nulls(_stored(RAW), schema)
        yield _result(CLEANED, metadata_of.cleaned_metadata(_stored(CLEANED), tables, dropped=dropped))

    @dg.multi_asset(name="prepared_features", specs=list(specs.values()))
    def prepared_features(
        context: dg.AssetExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        """Split the customers, fit the steps on the training split, and write the features of both splits."""
        _run(context, schema, postgres, "features")
        for name, shown in _features_metadata(tables):
            yield _result(name, shown)

    return [*sources, read_customers_file, cleaned_customers, prepared_features]


def _by_spark(spec: dg.AssetSpec) -> dg.AssetSpec:
    return spec.replace_attributes(kinds={*(spec.kinds - {"pandas", "numpy"}), "spark"})


def _features_metadata(tables: Tables) -> Iterable[tuple[str, Metadata]]:
    """Yield the assets of the last step and their metadata, each after those that it is made of."""
    from churn_platform.features.encoding import OneHotEncoder
    from churn_platform.features.imputing import Imputer
    from churn_platform.features.scaling import MinMaxScaler

    schema, customers, imputed = tables.schema, _stored("train_test_split"), _stored("imputed_features")
    imputer = Imputer.from_json(_document("feature_imputer"))
    encoder = OneHotEncoder.from_json(_document("feature_encoder"))
    scaler = MinMaxScaler.from_json(_document("feature_scaler"))
    rows = int((customers[SPLIT] == TRAIN).sum())
    yield "train_test_split", metadata_of.split_metadata(customers, schema)
    yield "feature_imputer", metadata_of.imputer_metadata(imputer, schema, fitted_rows=rows)
    yield "imputed_features", metadata_of.imputed_metadata(imputed, customers, tables)
    yield "feature_encoder", metadata_of.encoder_metadata(encoder, fitted_rows=rows)
    yield "encoded_features", metadata_of.encoded_metadata(_stored("encoded_features"), tables)
    yield "binned_features", metadata_of.binned_metadata(_stored("binned_features"), tables)
    yield "feature_scaler", metadata_of.scaler_metadata(scaler, fitted_rows=rows)
    yield "scaled_features", metadata_of.scaled_metadata(_stored("scaled_features"), schema)
    for name, followed_by in (("train_features", "churn_model"), ("test_features", "model_evaluation")):
        yield name, metadata_of.features_metadata(_stored(name), schema, followed_by=followed_by)


def _run(
    context: dg.AssetExecutionContext, schema: CustomerSchema, postgres: PostgresResource, step: str
) -> "FileRead | None":
    """Let Spark carry out a step."""
    from churn_platform.database import erased_customers
    from churn_platform.spark.preparation_engine import PreparationFailedError, new_staging, prepare
    from churn_platform.spark.preparation_order import PreparationOrder, Step
    from churn_platform.spark.submit import SparkConfig

    client, root = dg.PipesSubprocessClient(), settings().platform.artifacts_root
    assets = join(root, ASSETS)

    def run(command: Sequence[str], variables: Mapping[str, str]) -> Sequence[Any]:
        try:
            done = client.run(context=context, command=list(command), env=dict(variables))
        except DagsterPipesExecutionError as error:
            raise PreparationFailedError(
                f"Spark's driver of step {step!r} has failed: {error}",
                remedy="Read stdout and stderr of this run, which have its log.",
            ) from None
        return done.get_custom_messages()

    with retry_transient_errors():
        with postgres.connect("churn erased customers") as connection:
            erased = erased_customers.load(connection)
        order = PreparationOrder(
            step=Step(step),
            place=customers_of(settings()),
            schema=schema,
            assets=assets,
            staging=new_staging(root, assets, f"{context.run.run_id}-{step}-{context.retry_number}"),
            part_rows=settings().spark.part_rows,
            erased=erased,
        )
        return prepare(order, SparkConfig.from_settings(settings()), run)


def _uri(name: str) -> str:
    return join(settings().platform.artifacts_root, ASSETS, name)


def _stored(asset: str) -> "StoredFrame":
    from churn_platform.files.stored_frame import StoredFrame

    return StoredFrame(_uri(f"{asset}.parquet"))


def _document(asset: str) -> str:
    return read_bytes(_uri(f"{asset}.json")).decode()


def _result(asset: str, metadata: Metadata) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(asset_key=asset, metadata={"dagster/uri": _uri(asset), **metadata})
