"""The customers file, which exists outside Dagster, and the asset that reads it."""

from datetime import timedelta

import dagster as dg
import pandas as pd

from churn_platform.orchestration.assets.column_schema import column_metadata
from churn_platform.orchestration.assets.training_inputs import FILE_HASH, file_hash, with_file_hash
from churn_platform.orchestration.assets.ui_metadata import distributions, next_asset, preview
from churn_platform.schema.columns import COLUMN_NAMES
from churn_platform.settings import settings

GROUP = "raw"

customers_file = dg.AssetSpec(
    "customers_file",
    group_name=GROUP,
    kinds={"csv", "file"},
    owners=["team:core-banking"],
    metadata=column_metadata(COLUMN_NAMES),
    description="""The CSV file that the bank exports: one row per customer, including whether the customer left.

The setting `CHURN_RAW_CSV` is its path, and `data/README.md` is its data dictionary. The file in `data/raw` is
synthetic.

Each run of [raw_customers](/assets/raw_customers) records an **observation** with the SHA-256 of the file, which shows
whether two runs read the same file.

Next: [raw_customers](/assets/raw_customers).""",
)


@dg.asset(
    deps=[customers_file],
    group_name=GROUP,
    kinds={"csv", "pandas"},
    owners=["team:ml-platform"],
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=30), warn_window=timedelta(days=7)),
    metadata=column_metadata(COLUMN_NAMES, upstream=customers_file.key.to_user_string(), upstream_names=COLUMN_NAMES),
)
def raw_customers(context: dg.AssetExecutionContext) -> dg.MaterializeResult[pd.DataFrame]:
    """The bank's customers, one row each, typed but not validated, missing values included.

    A file with values that cannot be typed is an error, which lists their lines. Values that are typed but wrong (a
    Geography of Italy, an Age of 17, a repeated CustomerId) are read, and the **checks** of this asset fail: they
    report what was found and what was expected, and block all downstream assets. Ranges and categories are defined in
    `schema/columns.py`, for the stream as well.
    """
    from churn_platform.schema.reader import load_customers

    path = settings().platform.raw_csv
    file = load_customers(path)
    customers = with_file_hash(file.customers, file.sha256)
    context.log_event(
        dg.AssetObservation(
            customers_file.key,
            metadata={
                "rows": len(customers),
                "size_bytes": file.size_bytes,
                "modified": dg.MetadataValue.timestamp(file.modified),
                FILE_HASH: file.sha256,
                "path": dg.MetadataValue.path(str(path)),
            },
        )
    )
    return dg.MaterializeResult(
        value=customers,
        metadata={
            "dagster/row_count": len(customers),
            **file_hash(customers),
            "churn_rate_percent": round(100 * float(customers["Exited"].mean()), 2),
            "null_gender": int(customers["Gender"].isna().sum()),
            "null_age": int(customers["Age"].isna().sum()),
            "source": dg.MetadataValue.path(str(path)),
            **distributions(customers, "Age", "Balance", "CreditScore", "Geography", "Exited"),
            **preview(customers),
            **next_asset("cleaned_customers"),
        },
    )
