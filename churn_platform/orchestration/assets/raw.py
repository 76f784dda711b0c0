"""The customers file, which exists outside Dagster, and the assets that read it."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg
import pandas as pd

from churn_platform.decoding.erased_rows import without_erased
from churn_platform.modeling.file_attributes import FILE_HASH, file_attributes
from churn_platform.orchestration.assets.column_schema import column_metadata
from churn_platform.orchestration.assets.training_inputs import file_hash
from churn_platform.orchestration.assets.ui_metadata import (
    Metadata,
    distributions,
    next_asset,
    null_counts,
    preview,
    private_columns,
    rows_table,
)
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.schema.current import customers_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import settings

if TYPE_CHECKING:  # the code server starts without the readers of all formats
    from churn_platform.files.stored_frame import Frame
    from churn_platform.schema.reader import CustomersFile
    from churn_platform.spark.preparation_order import FileRead

GROUP: Final = "raw"
FILE: Final = "customers_file"
RAW: Final = "raw_customers"
QUARANTINED: Final = "quarantined_customers"
MAX_REASONS: Final = 20  # rows of the table of reasons: a file of another data set has a reason for each column


def raw_assets(schema: CustomerSchema) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return the customers file, and the assets that one reading of it makes."""
    customers_file = dg.AssetSpec(
        FILE,
        group_name=GROUP,
        kinds={"csv", "file"},
        owners=["team:core-banking"],
        metadata=column_metadata(schema, schema.names),
        description=f"""The file of the data set `{schema.name}`: one row per customer, with whether the customer left.

{schema.description}

The setting `CHURN_RAW_CSV` is its place, or else the customer schema (`CHURN_SCHEMA`) names it. `data/README.md` is the
data dictionary.

Each run of [raw_customers](/assets/raw_customers) records an **observation** with the SHA-256 of the file, which shows
whether two runs read the same file.

Next: [raw_customers](/assets/raw_customers).""",
    )
    raw_customers = dg.AssetSpec(
        RAW,
        group_name=GROUP,
        kinds={"csv", "pandas"},
        owners=["team:ml-platform"],
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=30), warn_window=timedelta(days=7)),
        metadata=column_metadata(schema, schema.names, upstream=FILE, upstream_names=schema.names),
        description="""The customers of the file, one row each, typed, missing values included.

Customers who were erased (`churn customer erase`) are left out, and counted as `erased`.

Rows that break a rule of the customer schema are not among them: they are in
[quarantined_customers](/assets/quarantined_customers). A row that occurs twice is read once. A file that is not a
table, or lacks a column, is an error.

The **checks** of this asset report what was found and what was expected, and block all downstream assets. One of them
fails if a larger share of the rows is quarantined than the schema allows. Ranges and categories are those of the
schema, for the stream as well.""",
    )
    quarantined_customers = dg.AssetSpec(
        QUARANTINED,
        group_name=GROUP,
        kinds={"csv", "pandas"},
        owners=["team:ml-platform"],
        metadata=_quarantine_columns(),
        description="""The rows of the file that break a rule of the customer schema, with their values and the reasons.

They are not used for training. `reasons` names the columns and what the schema allows; `values` are the texts of the
file as JSON, without customers' names. Correct the rows in the file, or the rule in the schema, and materialize
[raw_customers](/assets/raw_customers) again.""",
    )

    @dg.multi_asset(
        name="read_customers_file",
        outs={
            RAW: dg.AssetOut.from_spec(raw_customers, dagster_type=pd.DataFrame, is_required=False),
            QUARANTINED: dg.AssetOut.from_spec(quarantined_customers, dagster_type=pd.DataFrame, is_required=False),
        },
        deps=[FILE],
        can_subset=True,
    )
    def read_customers_file(
        context: dg.AssetExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.MaterializeResult[pd.DataFrame]]:
        """Read the file once, and yield its customers and its quarantined rows, without those of erased customers."""
        from churn_platform.database import erased_customers
        from churn_platform.schema.reader import load_customers

        place = customers_of(settings())
        with retry_transient_errors():
            with postgres.connect("churn erased customers") as connection:
                erased = erased_customers.load(connection)
            file = load_customers(place, schema, categorical=True)
        customers, quarantined = without_erased(file.customers, file.quarantined, schema, erased)
        left_out = file.rows - file.duplicates - len(customers) - len(quarantined)
        counts = {"quarantined": len(quarantined), "duplicates": file.duplicates, "erased": left_out}
        context.log_event(file_observation(file, place))
        if dg.AssetKey(RAW) in context.selected_asset_keys:
            customers.attrs |= file_attributes(
                sha256=file.sha256, rows=file.rows - left_out, quarantined=len(quarantined)
            )
            yield dg.MaterializeResult(
                asset_key=RAW,
                value=customers,
                metadata=raw_metadata(customers, schema, counts, place=place, detected=file.detected),
            )
        if dg.AssetKey(QUARANTINED) in context.selected_asset_keys:
            yield dg.MaterializeResult(
                asset_key=QUARANTINED,
                value=quarantined,
                metadata=quarantined_metadata(quarantined, schema, rows=file.rows - left_out),
            )

    return [customers_file, read_customers_file]


def file_observation(file: "CustomersFile | FileRead", place: str) -> dg.AssetObservation:
    """Return the observation of the customers file as it was read."""
    return dg.AssetObservation(
        FILE,
        metadata={
            "rows": file.rows,
            "size_bytes": file.size_bytes,
            "modified": dg.MetadataValue.timestamp(file.modified),
            FILE_HASH: file.sha256,
            "path": dg.MetadataValue.path(place),
            **_detected(file.detected),
        },
    )


def raw_metadata(
    customers: "Frame", schema: CustomerSchema, counts: Mapping[str, int], *, place: str, detected: Mapping[str, str]
) -> Metadata:
    """Return the metadata of raw_customers.

    Args:
        customers: the asset's value.
        schema: of the customers.
        counts: how many rows of the file are not among them, by why.
        place: path or address of the file.
        detected: file name -> its format as text.
    """
    charted = [*(each for each in schema.stored if each.summary or each.bands), schema.target_column]
    return {
        "dagster/row_count": len(customers),
        **file_hash(customers),
        "churn_rate_percent": round(100 * float(customers[schema.target].mean()), 2),
        **null_counts(customers, schema),
        **counts,
        "source": dg.MetadataValue.path(place),
        **_detected(detected),
        **distributions(customers, *(each.name for each in charted)),
        **preview(customers, without=private_columns(schema)),
        **next_asset("cleaned_customers"),
    }


def quarantined_metadata(quarantined: "Frame", schema: CustomerSchema, *, rows: int) -> Metadata:
    """Return the metadata of quarantined_customers.

    Args:
        quarantined: the asset's value.
        schema: of the customers.
        rows: number of rows of the file, without those of erased customers.
    """
    return {
        "dagster/row_count": len(quarantined),
        "share_percent": round(100 * len(quarantined) / max(rows, 1), 4),
        "allowed_percent": round(100 * schema.largest_quarantined_share, 4),
        **_reasons(quarantined),
        **preview(quarantined),
    }


def _detected(found: Mapping[str, str]) -> dict[str, str]:
    return {"detected": ", ".join(f"{name}: {each}" for name, each in found.items())}


def _reasons(quarantined: "Frame") -> Metadata:
    """Return the most frequent reasons and their number of rows as a table; nothing without rows."""
    counts = quarantined["reasons"].value_counts().head(MAX_REASONS)
    return rows_table("reasons", [{"reasons": str(reason), "rows": int(count)} for reason, count in counts.items()])


def _quarantine_columns() -> dict[str, dg.TableSchema | dg.TableColumnLineage]:
    known = dg.TableColumnConstraints(nullable=False)
    return {
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("file", "string", "Name of the file.", known),
                dg.TableColumn("row", "int64", "Number of the row, 1 for the first one below the header.", known),
                dg.TableColumn("values", "string", "The row's texts as JSON, without customers' names.", known),
                dg.TableColumn("reasons", "string", "The rules that the row breaks.", known),
            ]
        ),
        "dagster/column_lineage": dg.TableColumnLineage({}),
    }
