"""The customers file, as it is."""

import dagster as dg
import pandas as pd

from churn_platform.assets.column_schema import column_schema
from churn_platform.customers.schema import COLUMN_NAMES
from churn_platform.settings import settings


@dg.asset(
    group_name="raw",
    kinds={"csv", "pandas"},
    owners=["team:ml-platform"],
    metadata={"dagster/column_schema": column_schema(COLUMN_NAMES)},
)
def raw_customers() -> dg.MaterializeResult[pd.DataFrame]:
    """The bank's customers, one row each, read from the file that CHURN_RAW_CSV names: nulls and all."""
    from churn_platform.customers.reader import read_customers

    path = settings().churn_raw_csv
    customers = read_customers(path)
    return dg.MaterializeResult(
        value=customers,
        metadata={
            "dagster/row_count": len(customers),
            "churn_rate_percent": round(100 * float(customers["Exited"].mean()), 2),
            "null_gender": int(customers["Gender"].isna().sum()),
            "null_age": int(customers["Age"].isna().sum()),
            "source": dg.MetadataValue.path(str(path)),
        },
    )
