"""Hourly and daily figures of the predictions, by the time of the event (UTC)."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pandas as pd

from churn_platform.database import metrics
from churn_platform.orchestration.assets import charts
from churn_platform.orchestration.assets.columns import DAILY_COLUMNS, HOURLY_COLUMNS
from churn_platform.orchestration.assets.predictions import FRESH
from churn_platform.orchestration.assets.ui_metadata import Shown, next_asset, picture, rows_table
from churn_platform.orchestration.partitions import TimePartitions, hour_key
from churn_platform.orchestration.resources.postgres import PostgresResource

GROUP = "metrics"
OWNERS = ["team:analytics"]
MOST_BATCHES = 10  # of an hour that are listed: a busy one has 60
FIGURES = ("churn_rate", "avg_risk_score", "avg_age", "avg_balance", "avg_tenure")
HOURS_OF_DAY = ["00:00", "06:00", "12:00", "18:00", "24:00"]


def churn_metrics_hourly(
    context: dg.AssetExecutionContext, postgres: PostgresResource
) -> dg.MaterializeResult[pd.DataFrame]:
    """Figures per hour of the event: counts, churn rate in per cent, averages. A late event reopens its hour.

    An hour is the sum of what each batch committed for it (`churn_batch_hours`), so it costs what it holds in batches,
    not in events. The [dirty_hours_sensor](/automation) asks for the hours that commits, late events and replays have
    changed; each materialization lists the batches that an hour is made of.

    **To compute hours anew**, press *Materialize* and choose them: whatever you choose is one run. An hour without an
    event has no row.
    """
    window = context.partition_time_window
    with postgres.connect("churn metrics") as connection:
        figures = metrics.hourly_figures(connection, window.start, window.end)
        batches = metrics.batches_of_hours(connection, window.start, window.end)
    rows = {hour_key(row["hour_timestamp"]): row for row in figures.to_dict("records")}
    counted = {hour_key(hour): found for hour, found in batches.items()}
    for key in context.partition_keys:
        shown = {**_figures(rows.get(key)), **_batches(counted.get(key, {})), **next_asset("churn_metrics_daily")}
        context.add_asset_metadata(shown, partition_key=key)
    return dg.MaterializeResult(value=figures)


def churn_metrics_daily(
    context: dg.AssetExecutionContext, churn_metrics_hourly: pd.DataFrame
) -> dg.MaterializeResult[pd.DataFrame]:
    """Figures per day of the event: the sum of its hours, averages weighted by what they average over.

    The views that dashboards read (`v_churn_trends`, `v_geography_churn`, `v_realtime_dashboard`) are listed in the
    README. The picture shows the day's predictions hour by hour.
    """
    figures = metrics.daily_figures(churn_metrics_hourly)
    rows = {str(row["date"]): row for row in figures.to_dict("records")}
    for key in context.partition_keys:
        context.add_asset_metadata({**_figures(rows.get(key)), **_hours(churn_metrics_hourly, key)}, partition_key=key)
    return dg.MaterializeResult(value=figures)


def metrics_assets(partitions: TimePartitions) -> list[dg.AssetsDefinition]:
    """Return the hourly and daily metrics."""
    return [
        dg.asset(
            partitions_def=partitions.hours,
            # A batch key cannot map to an hour; the hour reads its own window, whichever batches wrote it.
            deps=[dg.AssetDep("churn_predictions", partition_mapping=dg.AllPartitionMapping())],
            backfill_policy=dg.BackfillPolicy.single_run(),
            freshness_policy=FRESH,
            group_name=GROUP,
            kinds={"postgres", "table"},
            owners=OWNERS,
            io_manager_key="postgres_io_manager",
            metadata={
                **HOURLY_COLUMNS,
                "dagster/table_name": "churn_metrics_hourly",
                "partition_expr": "hour_timestamp",
            },
        )(churn_metrics_hourly),
        dg.asset(
            partitions_def=partitions.days,
            ins={
                "churn_metrics_hourly": dg.AssetIn(
                    # The running day has hours that have not begun.
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
                **DAILY_COLUMNS,
                "dagster/table_name": "churn_metrics_daily",
                "partition_expr": "date",
            },
        )(churn_metrics_daily),
    ]


def _figures(row: Mapping[Any, Any] | None) -> Shown:
    """Numbers of one hour or day, for the UI to plot; counts of 0 where nothing happened."""
    if row is None:
        return {"dagster/partition_row_count": 0, "predictions": 0, "churn_count": 0, "high_risk_count": 0}
    return {
        "dagster/partition_row_count": 1,
        "predictions": int(row["total_predictions"]),
        "churn_count": int(row["churn_count"]),
        "high_risk_count": int(row["high_risk_count"]),
        **{name: round(float(row[name]), 4) for name in FIGURES if pd.notna(row[name])},
    }


def _batches(found: Mapping[str, int]) -> Shown:
    """The batches that an hour is made of, the newest ones by name."""
    newest = [{"batch": batch, "predictions": count} for batch, count in list(found.items())[:MOST_BATCHES]]
    return {"batches": len(found), **rows_table("newest_batches", newest)}


def _hours(hourly: pd.DataFrame, day: str) -> Shown:
    """Predictions of a day, hour by hour."""
    moments = pd.to_datetime(hourly["hour_timestamp"], utc=True)
    of_day = hourly["total_predictions"].groupby(moments.dt.hour.where(moments.dt.strftime("%Y-%m-%d") == day)).sum()
    chart = charts.Chart([int(of_day.get(hour, 0)) for hour in range(24)], HOURS_OF_DAY)
    return {"hours": int((of_day > 0).sum()), "predictions_by_hour": picture(chart, "Predictions by hour, UTC")}
