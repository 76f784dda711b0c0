"""The customers file, outside of Dagster, and the customers in it."""

from datetime import timedelta

import dagster as dg
import pandas as pd

from churn_platform.orchestration.assets.column_schema import column_metadata
from churn_platform.orchestration.assets.training_inputs import FILE_HASH, file_hash, made_of
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
    description="""The CSV file that the bank exports: one customer a row, and whether the customer left.

The setting `CHURN_RAW_CSV` names it; `data/README.md` is its data dictionary. The one in `data/raw` is made, not real.

**Observations** are made by each run of [raw_customers](/assets/raw_customers): by the SHA-256 of what it read, two
runs that saw the same file are seen to have done so.

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
    """The bank's customers, one row each, as the file has them: typed and not judged, nulls and all.

    The reader refuses a file with values that it cannot type, and lists them with their lines. What is typed but wrong
    (a Geography of Italy, an Age of 17, a CustomerId that two rows have) is read, and the **checks** of this asset
    fail: they say what was seen and what was expected, and nothing that comes after is made of it. Ranges and
    categories are those of `customers/schema.py`, which the stream has, too.
    """
    from churn_platform.schema.reader import load_customers

    path = settings().platform.raw_csv
    file = load_customers(path)
    customers = made_of(file.customers, file.sha256)
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
