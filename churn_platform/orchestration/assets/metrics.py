"""Hourly and daily metrics of the predictions, by event time (UTC)."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from churn_platform.database import batch_hours, metrics
from churn_platform.database.averages import averages
from churn_platform.orchestration.assets import charts
from churn_platform.orchestration.assets.columns import daily_columns, hourly_columns
from churn_platform.orchestration.assets.predictions import FRESH
from churn_platform.orchestration.assets.ui_metadata import (
    Metadata,
    chart_metadata,
    next_asset,
    rows_table,
    significant,
)
from churn_platform.orchestration.partitions import TimePartitions, hour_key
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.schema.customer_schema import CustomerSchema

GROUP = "metrics"
OWNERS = ["team:analytics"]
BATCHES_LISTED = 10  # a busy hour has 60
FIGURES = ("churn_rate", "avg_risk_score")
HOURS_OF_DAY = ["00:00", "06:00", "12:00", "18:00", "24:00"]


def metrics_assets(partitions: TimePartitions, schema: CustomerSchema) -> list[dg.AssetsDefinition]:
    """Return the metrics of each hour and of each day.

    Args:
        partitions: the hours and days that have metrics.
        schema: of the customers.
    """
    names = (*FIGURES, *(each.average for each in averages(schema)))

    def churn_metrics_hourly(
        context: dg.AssetExecutionContext, postgres: PostgresResource
    ) -> dg.MaterializeResult[pd.DataFrame]:
        """Metrics per hour of the events: counts, churn rate in per cent, averages. A late event changes its hour.

        An hour is the sum of what each batch committed for it (`churn_batch_hours`), so its cost depends on the number
        of batches, not of events. The [dirty_hours_sensor](/automation) launches runs for the hours that commits, late
        events and replays have changed. Each materialization lists the batches of its hour.

        **To compute hours again**, press *Materialize* and choose them. All chosen hours are one run. An hour without
        events has no row.
        """
        window = context.partition_time_window
        with retry_transient_errors(), postgres.connect("churn metrics") as connection:
            figures = metrics.hourly_figures(connection, schema, window.start, window.end)
            batches = batch_hours.batches_of_hours(connection, window.start, window.end)
        rows = {hour_key(row["hour_timestamp"]): row for row in figures.to_dict("records")}
        counted = {hour_key(hour): found for hour, found in batches.items()}
        for key in context.partition_keys:
            metadata = {
                **_figures(rows.get(key), names),
                **_batches(counted.get(key, {})),
                **next_asset("churn_metrics_daily"),
            }
            context.add_asset_metadata(metadata, partition_key=key)
        return dg.MaterializeResult(value=figures)

    def churn_metrics_daily(
        context: dg.AssetExecutionContext, churn_metrics_hourly: pd.DataFrame
    ) -> dg.MaterializeResult[pd.DataFrame]:
        """Metrics per day of the events: the sum of its hours, with averages weighted by the number of customers.

        The README lists the views for dashboards (`v_churn_trends`, `v_segment_churn`, `v_realtime_dashboard`). The
        chart shows the day's predictions by hour.
        """
        figures = metrics.daily_figures(churn_metrics_hourly, schema)
        rows = {str(row["date"]): row for row in figures.to_dict("records")}
        for key in context.partition_keys:
            context.add_asset_metadata(
                {**_figures(rows.get(key), names), **_hours(churn_metrics_hourly, key)}, partition_key=key
            )
        return dg.MaterializeResult(value=figures)

    return [
        dg.asset(
            partitions_def=partitions.hours,
            # A batch key cannot be mapped to an hour. Each hour reads its own window, whichever batches wrote it.
            deps=[dg.AssetDep("churn_predictions", partition_mapping=dg.AllPartitionMapping())],
            backfill_policy=dg.BackfillPolicy.single_run(),
            freshness_policy=FRESH,
            group_name=GROUP,
            kinds={"postgres", "table"},
            owners=OWNERS,
            io_manager_key="postgres_io_manager",
            metadata={
                **hourly_columns(schema),
                "dagster/table_name": "churn_metrics_hourly",
                "partition_expr": "hour_timestamp",
            },
        )(churn_metrics_hourly),
        dg.asset(
            partitions_def=partitions.days,
            ins={
                "churn_metrics_hourly": dg.AssetIn(
                    # The current day has hours that have not started.
                    partition_mapping=dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
                )
            },
            backfill_policy=dg.BackfillPolicy.single_run(),
            freshness_policy=FRESH,
            group_name=GROUP,
            kinds={"postgres", "table"},
            owners=OWNERS,
            io_manager_key="postgres_io_manager",
            metadata={
                **daily_columns(schema),
                "dagster/table_name": "churn_metrics_daily",
                "partition_expr": "date",
            },
        )(churn_metrics_daily),
    ]


def _figures(row: Mapping[Any, Any] | None, names: Sequence[str]) -> Metadata:
    """Return the metrics of one hour or day, which the UI plots; counts are 0 if there is no row.

    Args:
        row: of churn_metrics_hourly or churn_metrics_daily.
        names: the rates and averages.
    """
    if row is None:
        return {"dagster/partition_row_count": 0, "predictions": 0, "churn_count": 0, "high_risk_count": 0}
    return {
        "dagster/partition_row_count": 1,
        "predictions": int(row["total_predictions"]),
        "churn_count": int(row["churn_count"]),
        "high_risk_count": int(row["high_risk_count"]),
        **significant({name: float(row[name]) for name in names if pd.notna(row[name])}),
    }


def _batches(found: Mapping[str, int]) -> Metadata:
    """Return the number of batches of an hour, and the newest ones."""
    newest = [{"batch": batch, "predictions": count} for batch, count in list(found.items())[:BATCHES_LISTED]]
    return {"batches": len(found), **rows_table("newest_batches", newest)}


def _hours(hourly: pd.DataFrame, day: str) -> Metadata:
    """Return a chart of a day's predictions by hour."""
    moments = pd.to_datetime(hourly["hour_timestamp"], utc=True)
    of_day = hourly["total_predictions"].groupby(moments.dt.hour.where(moments.dt.strftime("%Y-%m-%d") == day)).sum()
    chart = charts.Chart([int(of_day.get(hour, 0)) for hour in range(24)], HOURS_OF_DAY)
    return {"hours": int((of_day > 0).sum()), "predictions_by_hour": chart_metadata(chart, "Predictions by hour, UTC")}
