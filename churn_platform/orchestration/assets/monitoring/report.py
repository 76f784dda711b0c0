"""The asset of the daily report. What the report contains is decided in monitoring/report.py of the package."""

import dagster as dg
import pandas as pd

from churn_platform.database import stream_batches
from churn_platform.monitoring import lookups
from churn_platform.orchestration.assets.monitoring.common import DAY, MONITORING, SESSION, period_starts, records_of
from churn_platform.orchestration.assets.predictions import FRESH
from churn_platform.orchestration.partitions import TimePartitions, day_key
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.settings import settings


def monitoring_report(
    context: dg.AssetExecutionContext,
    drift_daily: pd.DataFrame,
    live_performance: pd.DataFrame,
    postgres: PostgresResource,
) -> dg.MaterializeResult[None]:
    """The daily report for people who do not use Dagster: drift, rates, dead letters and live performance.

    One self-contained HTML file per day in the artifacts (`reports/`). It can be sent by e-mail as it is.
    """
    from churn_platform.monitoring import report

    with retry_transient_errors(), postgres.connect(SESSION) as connection:
        references = lookups.references(connection, {int(version) for version in drift_daily["model_version"]})
        for start in period_starts(context.partition_time_window, DAY):
            day = start.date()
            daily_report = report.DailyReport(
                day=day,
                drift=records_of(drift_daily[drift_daily["date"] == day]),
                live=records_of(live_performance[live_performance["date"] == day]),
                references=references,
                read_and_dead=stream_batches.count_events_between(connection, start, start + DAY),
                auc_loss=settings().monitoring.live_auc_loss,
            )
            uri = report.save(daily_report, settings().platform.artifacts_root)
            context.add_asset_metadata({"report": dg.MetadataValue.path(uri)}, partition_key=day_key(start))
    return dg.MaterializeResult()


def report_assets(partitions: TimePartitions) -> list[dg.AssetsDefinition]:
    """Return the report of each day.

    Args:
        partitions: the hours and days that are monitored.
    """
    return [
        dg.asset(
            **MONITORING,
            partitions_def=partitions.days,
            backfill_policy=dg.BackfillPolicy.single_run(),
            freshness_policy=FRESH,
            kinds={"html"},
        )(monitoring_report),
    ]
