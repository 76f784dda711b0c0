"""Hourly and daily figures of the predictions, by the time of the event (UTC)."""

import dagster as dg
import pandas as pd

from churn_platform.assets.columns import DAILY_COLUMNS, HOURLY_COLUMNS
from churn_platform.partitions import days, hours
from churn_platform.resources.postgres import PostgresResource
from churn_platform.storage import metrics

GROUP = "metrics"
OWNERS = ["team:analytics"]


@dg.asset(
    partitions_def=hours,
    # A batch key cannot map to an hour; the hour reads its own window, whichever batches wrote it.
    deps=[dg.AssetDep("churn_predictions", partition_mapping=dg.AllPartitionMapping())],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name=GROUP,
    kinds={"postgres", "table"},
    owners=OWNERS,
    io_manager_key="postgres_io_manager",
    metadata={
        "dagster/column_schema": HOURLY_COLUMNS,
        "dagster/table_name": "churn_metrics_hourly",
        "partition_expr": "hour_timestamp",
    },
)
def churn_metrics_hourly(
    context: dg.AssetExecutionContext, postgres: PostgresResource
) -> dg.MaterializeResult[pd.DataFrame]:
    """Figures per hour of the event: counts, churn rate in per cent, averages. A late event reopens its hour.

    An hour is the sum of what each batch committed for it, so it costs what it holds in batches, not in events.
    """
    window = context.partition_time_window
    with postgres.connect("churn metrics") as connection:
        figures = metrics.hourly_figures(connection, window.start, window.end)
    return dg.MaterializeResult(value=figures, metadata=_totals(figures))


@dg.asset(
    partitions_def=days,
    ins={
        "churn_metrics_hourly": dg.AssetIn(
            # The running day has hours that have not begun.
            partition_mapping=dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
        )
    },
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name=GROUP,
    kinds={"postgres", "table"},
    owners=OWNERS,
    io_manager_key="postgres_io_manager",
    metadata={
        "dagster/column_schema": DAILY_COLUMNS,
        "dagster/table_name": "churn_metrics_daily",
        "partition_expr": "date",
    },
)
def churn_metrics_daily(churn_metrics_hourly: pd.DataFrame) -> dg.MaterializeResult[pd.DataFrame]:
    """Figures per day of the event: the sum of its hours, averages weighted by what they average over."""
    figures = metrics.daily_figures(churn_metrics_hourly)
    return dg.MaterializeResult(value=figures, metadata=_totals(figures))


def _totals(figures: pd.DataFrame) -> dict[str, int | float]:
    predictions = int(figures["total_predictions"].sum())
    totals: dict[str, int | float] = {
        "predictions": predictions,
        "churn_count": int(figures["churn_count"].sum()),
        "high_risk_count": int(figures["high_risk_count"].sum()),
    }
    if predictions:
        totals["churn_rate"] = round(100 * totals["churn_count"] / predictions, 3)
    return totals
