"""The asset of live performance: how well predictions match the outcomes that became known later."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import dagster as dg
import pandas as pd
import psycopg

from churn_platform.database import batch_hours, model_versions, monitoring_results
from churn_platform.monitoring import lookups
from churn_platform.monitoring.live_performance import (
    Counts,
    LivePerformance,
    Tally,
    reliability,
)
from churn_platform.monitoring.live_performance import live_performance as compute_metrics
from churn_platform.monitoring.verdicts import MAX_ECE, MIN_OUTCOMES
from churn_platform.orchestration.assets import curves
from churn_platform.orchestration.assets.columns import LIVE_COLUMNS
from churn_platform.orchestration.assets.monitoring.common import (
    DAY,
    MONITORING,
    SESSION,
    complete_since,
    frame_of,
    period_starts,
    unchanged_note,
)
from churn_platform.orchestration.assets.partition_checks import evaluations, partition_check
from churn_platform.orchestration.assets.predictions import FRESH
from churn_platform.orchestration.assets.svg import markdown_image
from churn_platform.orchestration.assets.ui_metadata import Metadata, next_asset, rows_table, significant
from churn_platform.orchestration.partitions import TimePartitions, day_key
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.settings import settings

METRICS: Final = tuple(each.name for each in fields(LivePerformance))


def live_performance(
    context: dg.AssetExecutionContext, postgres: PostgresResource
) -> Iterator[dg.MaterializeResult[pd.DataFrame] | dg.Output[None] | dg.AssetCheckEvaluation]:
    """Prediction quality per model version, over the LIVE_WINDOW_DAYS up to the day.

    An outcome comes either with the event itself (`true_churn_label`) or later from the outcomes topic, for the event
    or for the customer. The latest one counts. The ROC AUC is computed from scores counted in 1,000 bins. A version has
    no row until one of its predictions has an outcome. **Each check result** is about its own day; this page shows
    those of the latest day. The figures of a day stay as they are once part of its window has been archived or deleted.
    """
    window = timedelta(days=settings().monitoring.live_window_days)
    rows: list[dict[str, Any]] = []
    results: dict[str, list[dg.AssetCheckResult]] = {}
    with retry_transient_errors(), postgres.connect(SESSION) as connection:
        champion = model_versions.champion(connection)
        for day in period_starts(context.partition_time_window, DAY):
            day_rows, counted = _load_or_compute(connection, day, window)
            rows += day_rows
            main = _main_row(day_rows, None if champion is None else champion.version)
            metadata = {
                **_metrics_metadata(day_rows, main),
                **_reliability_chart(None if main is None or counted is None else counted.get(main["model_version"])),
                **unchanged_note(is_unchanged=counted is None),
                **next_asset("monitoring_report"),
            }
            context.add_asset_metadata(metadata, partition_key=day_key(day))
            results[day_key(day)] = _check_results(main)
    yield dg.MaterializeResult(value=frame_of(rows, "date"))
    with postgres.connect(SESSION) as connection:
        latest = monitoring_results.latest_live_day(connection)
    yield from evaluations(context, results, latest=None if latest is None else latest.isoformat())


def _load_or_compute(
    connection: psycopg.Connection, day: datetime, window: timedelta
) -> tuple[list[dict[str, Any]], dict[int, tuple[Counts, Tally]] | None]:
    """Return the day's rows, and the counts that they were computed from.

    If predictions of the window have been archived or deleted, the rows are the stored ones and there are no counts.
    """
    start, end = day + DAY - window, day + DAY
    if start < complete_since() or any(batch_hours.predicted_hours(connection, start, end).values()):
        return monitoring_results.live_performance_of_days(connection, [day.date()]), None
    counted = lookups.labelled(connection, start, end)
    return _rows(day.date(), window.days, counted, lookups.expected_aucs(connection, counted)), counted


def _rows(
    day: date, window_days: int, counted: Mapping[int, tuple[Counts, Tally]], expected: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Compute the day's rows of live_performance."""
    return [
        {
            "date": day,
            "model_version": version,
            "window_days": window_days,
            **compute_metrics(*counts).as_dict(),
            "expected_roc_auc": expected.get(version),
            "updated_at": datetime.now(UTC),
        }
        for version, counts in sorted(counted.items())
    ]


def _main_row(rows: Sequence[dict[str, Any]], champion: int | None) -> dict[str, Any] | None:
    """Return the champion's row, or that of the version with the most outcomes; None if there are no rows."""
    return max(rows, key=lambda row: (row["model_version"] == champion, row["labelled"]), default=None)


def _metrics_metadata(rows: Sequence[dict[str, Any]], main: Mapping[str, Any] | None) -> Metadata:
    if main is None:
        return {"dagster/partition_row_count": 0, "labelled": 0}
    table = ({name: row[name] for name in ("model_version", *METRICS)} for row in rows)
    return {
        "dagster/partition_row_count": len(rows),
        "version": main["model_version"],
        "labelled": main["labelled"],
        "churned": main["churned"],
        **significant(
            {name: main[name] for name in METRICS if name not in ("labelled", "churned") and main[name] is not None}
        ),
        **rows_table("versions", table),
    }


def _reliability_chart(counted: tuple[Counts, Tally] | None) -> Metadata:
    """Return the reliability chart; nothing if there are no counts."""
    if counted is None:
        return {}
    svg = curves.curve(reliability(counted[0]), title="churn rate (up) by score")
    return {"reliability": dg.MetadataValue.md(markdown_image(svg, "Churn rate by score"))}


def _check_results(row: Mapping[str, Any] | None) -> list[dg.AssetCheckResult]:
    """Return the results of a day's checks, given the row of one model version."""
    if row is None or row["labelled"] < MIN_OUTCOMES:
        labelled = 0 if row is None else row["labelled"]
        reason = f"Not evaluated: {labelled:,} predictions have an outcome, at least {MIN_OUTCOMES} are needed."
        return [
            dg.AssetCheckResult(check_name=name, passed=True, description=reason) for name in ("roc_auc", "calibration")
        ]
    performance, version, expected = LivePerformance.of_row(row), row["model_version"], row["expected_roc_auc"]
    loss = settings().monitoring.live_auc_loss
    auc = "undefined (all left, or all stayed)" if performance.roc_auc is None else f"{performance.roc_auc:.4f}"
    expectation = (
        "unknown, because it was not measured out of fold" if expected is None else f"{expected:.4f}, minus {loss:g}"
    )
    return [
        dg.AssetCheckResult(
            check_name="roc_auc",
            passed=expected is None or not performance.is_worse_than(expected, by=loss),
            severity=dg.AssetCheckSeverity.ERROR,
            description=f"Found: ROC AUC {auc} of model version {version} over {performance.labelled:,} outcomes. "
            f"Expected at least: {expectation}.",
            metadata={"labelled": performance.labelled, "version": version},
        ),
        dg.AssetCheckResult(
            check_name="calibration",
            passed=performance.ece <= MAX_ECE,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"Found: an expected calibration error of {performance.ece:.4f}. The mean score was "
            f"{performance.mean_score:.4f}, and {performance.churn_rate:.4f} of the customers left. Expected: at most "
            f"{MAX_ECE:g}.",
            metadata={
                **significant(
                    {
                        "ece": performance.ece,
                        "mean_score": performance.mean_score,
                        "churn_rate": performance.churn_rate,
                    }
                )
            },
        ),
    ]


def live_performance_assets(partitions: TimePartitions) -> list[dg.AssetsDefinition]:
    """Return the live performance of each day.

    Args:
        partitions: the hours and days that are monitored.
    """
    return [
        dg.asset(
            **MONITORING,
            partitions_def=partitions.days,
            deps=[
                dg.AssetDep("customer_outcomes"),
                dg.AssetDep("churn_predictions", partition_mapping=dg.AllPartitionMapping()),
            ],
            backfill_policy=dg.BackfillPolicy.single_run(),
            freshness_policy=FRESH,
            kinds={"postgres", "table"},
            io_manager_key="postgres_io_manager",
            check_specs=[
                partition_check(
                    "roc_auc",
                    "live_performance",
                    partitions.days,
                    "Expected: the champion ranks customers who leave above those who stay about as well as it did "
                    "out of fold in training (LIVE_AUC_LOSS).",
                ),
                partition_check(
                    "calibration",
                    "live_performance",
                    partitions.days,
                    f"Expected: of customers scored 30 %, about three in ten leave (ECE at most {MAX_ECE:g}).",
                ),
            ],
            metadata={**LIVE_COLUMNS, "dagster/table_name": "live_performance", "partition_expr": "date"},
        )(live_performance),
    ]
