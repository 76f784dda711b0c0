"""The drift assets: the distance of each feature and of the score from the training data, per hour and per day."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import pandas as pd
import psycopg

from churn_platform.database import batch_hours, monitoring_results, stream_batches
from churn_platform.monitoring import evaluation, lookups
from churn_platform.monitoring.drift import FeatureReference, Reference, Thresholds
from churn_platform.orchestration.assets import charts
from churn_platform.orchestration.assets.columns import DRIFT_DAILY_COLUMNS, DRIFT_HOURLY_COLUMNS
from churn_platform.orchestration.assets.monitoring.common import (
    DAY,
    HOUR,
    MONITORING,
    SESSION,
    complete_since,
    frame_of,
    period_starts,
    records_of,
    unchanged_note,
)
from churn_platform.orchestration.assets.monitoring.drift_checks import (
    dead_letters_check_spec,
    dead_letters_result,
    drift_check_results,
    drift_check_specs,
)
from churn_platform.orchestration.assets.partition_checks import evaluations
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
from churn_platform.settings import MonitoringSettings, settings


def _thresholds() -> Thresholds:
    return Thresholds(
        shifted=settings().monitoring.drift_shifted,
        far=settings().monitoring.drift_far,
        min_rows=settings().monitoring.drift_least_predictions,
    )


def _evaluate_hour(hour: datetime, sample: lookups.Sample, references: Mapping[int, Reference]) -> list[dict[str, Any]]:
    """Compute an hour's rows of drift_hourly."""
    rows: list[dict[str, Any]] = []
    for version, columns in sample.columns.items():
        reference = references.get(version)
        observed = evaluation.count_sample(reference, columns, weight=sample.weight)
        rows += [
            {"hour_timestamp": hour, **asdict(each), "version": sample.version, "updated_at": datetime.now(UTC)}
            for each in evaluation.evaluate(version, reference, observed, _thresholds())
        ]
    return rows


def _evaluate_day(day: date, hourly: pd.DataFrame, references: Mapping[int, Reference]) -> list[dict[str, Any]]:
    """Compute a day's rows of drift_daily from its rows of drift_hourly."""
    version = int(hourly.groupby("hour_timestamp")["version"].max().sum())
    return [
        {"date": day, **asdict(each), "version": version, "updated_at": datetime.now(UTC)}
        for model_version, observed in evaluation.merge_hours(records_of(hourly)).items()
        for each in evaluation.evaluate(model_version, references.get(model_version), observed, _thresholds())
    ]


def _group_by_hour(rows: Sequence[dict[str, Any]]) -> dict[datetime, list[dict[str, Any]]]:
    """Group rows of drift_hourly by their hour, UTC."""
    groups: dict[datetime, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["hour_timestamp"].astimezone(UTC), []).append(row)
    return groups


def _rows_of_main_version(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the model version that made the most predictions."""
    sampled: dict[int, int] = {}
    for row in rows:
        sampled[row["model_version"]] = max(sampled.get(row["model_version"], 0), row["sampled"])
    main = max(sampled, key=lambda version: sampled[version], default=None)
    return [row for row in rows if row["model_version"] == main]


def _days_with_lost_hours(
    connection: psycopg.Connection, starts: Sequence[datetime], drift_hourly: pd.DataFrame
) -> list[date]:
    """Return the days with an hour that had predictions, no longer has drift rows, and cannot be evaluated again."""
    known = {
        moment.to_pydatetime().astimezone(UTC) for moment in pd.to_datetime(drift_hourly["hour_timestamp"], utc=True)
    }
    first_complete = complete_since()
    lost = {
        hour.date()
        for hour, archived in batch_hours.predicted_hours(connection, starts[0], starts[-1] + DAY).items()
        if hour not in known and (archived or hour < first_complete)
    }
    return sorted(lost)


def _drift_metadata(rows: Sequence[dict[str, Any]], references: Mapping[int, Reference], *, following: str) -> Metadata:
    """Return the metadata of an hour or a day: all features with their distances, and charts of the farthest one.

    Args:
        rows: drift rows of all model versions.
        references: references by model version.
        following: the asset to look at next.
    """
    main = sorted(_rows_of_main_version(rows), key=lambda row: -(row["psi"] or 0.0))
    if not main:
        return {"dagster/partition_row_count": 0, "predictions": 0}
    farthest = main[0]
    columns = ("feature", "psi", "p_value", "verdict", "missing_rate", "out_of_range_rate")
    metadata: Metadata = {
        "dagster/partition_row_count": len(rows),
        "predictions": round(farthest["sampled"] * farthest["weight"]),
        "model_version": farthest["model_version"],
        **rows_table("features", ({name: row[name] for name in columns} for row in main)),
        **next_asset(following),
    }
    if farthest["psi"] is not None:
        feature = farthest["feature"]
        reference = references[farthest["model_version"]].features[feature]
        metadata |= {
            **significant({"greatest_psi": float(farthest["psi"])}),
            "farthest_feature": feature,
            "farthest_now": chart_metadata(_bin_chart(farthest["counts"], reference), f"{feature} now, by bin"),
            "farthest_in_training": chart_metadata(
                _bin_chart(reference.counts, reference), f"{feature} in training, by bin"
            ),
        }
    return metadata


def _bin_chart(counts: Sequence[int], reference: FeatureReference) -> charts.Chart:
    labels = reference.labels
    return charts.Chart(list(counts), labels if reference.categories else [labels[0], labels[-2]])


def drift_assets(
    partitions: TimePartitions, limits: MonitoringSettings, schema: CustomerSchema
) -> list[dg.AssetsDefinition]:
    """Return the drift of each hour and of each day.

    Args:
        partitions: the hours and days that are monitored.
        limits: from which drift warns and fails, for the descriptions of the checks.
        schema: of the customers.
    """

    def drift_hourly(
        context: dg.AssetExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.MaterializeResult[pd.DataFrame] | dg.Output[None] | dg.AssetCheckEvaluation]:
        """Distance of each feature and of the score from the training data, per hour of the events.

        The bins are those of the training split, stored with each model version. The distance is the population
        stability index (PSI). A chi-squared test tells whether chance explains it. If an hour has very many
        predictions, a sample is evaluated; `weight` is the number of predictions that each sampled one represents. The
        figures of an hour stay as they are once some of its predictions have been archived. **Each check result** is
        about its own hour and the model version that scored most of it; this page shows those of the latest hour. The
        method is in `monitoring/drift.py`; docs/explanation/monitoring.md explains how to read it.
        """
        starts = period_starts(context.partition_time_window, HOUR)
        with retry_transient_errors(), postgres.connect(SESSION) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            predicted = batch_hours.predicted_hours(connection, starts[0], starts[-1] + HOUR)
            unchanged = [hour for hour in starts if predicted.get(hour)]
            rows = monitoring_results.drift_of_hours(connection, unchanged)
            references = lookups.references(connection, {row["model_version"] for row in rows})
            for hour in starts:
                if hour not in unchanged:
                    sample = lookups.sample_hour(connection, schema, hour)
                    references |= lookups.references(connection, sample.columns.keys() - references.keys())
                    rows += _evaluate_hour(hour, sample, references)
            read_and_dead = stream_batches.count_events_by_hour(connection, starts[0], starts[-1] + HOUR)
        rows_by_hour = _group_by_hour(rows)
        results: dict[str, list[dg.AssetCheckResult]] = {}
        for hour in starts:
            hour_rows = rows_by_hour.get(hour, [])
            metadata = {
                **_drift_metadata(hour_rows, references, following="drift_daily"),
                **unchanged_note(is_unchanged=hour in unchanged),
            }
            context.add_asset_metadata(metadata, partition_key=hour_key(hour))
            period = f"{hour:%Y-%m-%d %H}:00 UTC"
            results[hour_key(hour)] = [
                *drift_check_results(_rows_of_main_version(hour_rows), references, period, schema),
                dead_letters_result(*read_and_dead.get(hour, (0, 0)), period),
            ]
        yield dg.MaterializeResult(value=frame_of(rows, "hour_timestamp"))
        with postgres.connect(SESSION) as connection:
            latest_with_drift = monitoring_results.latest_drift_hour(connection)
        # An hour in which every event was invalid has dead letters, but no drift.
        latest = max([hour for hour in (latest_with_drift, *read_and_dead) if hour is not None], default=None)
        yield from evaluations(context, results, latest=None if latest is None else hour_key(latest))

    def drift_daily(
        context: dg.AssetExecutionContext, drift_hourly: pd.DataFrame, postgres: PostgresResource
    ) -> Iterator[dg.MaterializeResult[pd.DataFrame] | dg.Output[None] | dg.AssetCheckEvaluation]:
        """Distance of each feature and of the score from the training data, per day: the weighted sum of its hours.

        A day averages out differences between times of day. If a feature is far off here, the
        [retraining_sensor](/automation), if it is on, launches a training. **Each check result** is about its own day;
        this page shows those of the latest day. The figures of a day stay as they are once some of its hours have been
        deleted.
        """
        hourly = drift_hourly.assign(date=pd.to_datetime(drift_hourly["hour_timestamp"], utc=True).dt.date)
        starts = period_starts(context.partition_time_window, DAY)
        with retry_transient_errors(), postgres.connect(SESSION) as connection:
            unchanged = _days_with_lost_hours(connection, starts, drift_hourly)
            rows = monitoring_results.drift_of_days(connection, unchanged)
            versions = {int(version) for version in hourly["model_version"]} | {row["model_version"] for row in rows}
            references = lookups.references(connection, versions)
        results: dict[str, list[dg.AssetCheckResult]] = {}
        for day in (start.date() for start in starts):
            if day not in unchanged:
                rows += _evaluate_day(day, hourly[hourly["date"] == day], references)
            day_rows = [row for row in rows if row["date"] == day]
            metadata = {
                **_drift_metadata(day_rows, references, following="monitoring_report"),
                **unchanged_note(is_unchanged=day in unchanged),
            }
            context.add_asset_metadata(metadata, partition_key=day.isoformat())
            main = _rows_of_main_version(day_rows)
            results[day.isoformat()] = drift_check_results(main, references, day.isoformat(), schema)
        yield dg.MaterializeResult(value=frame_of(rows, "date"))
        with postgres.connect(SESSION) as connection:
            latest = monitoring_results.latest_drift_day(connection)
        yield from evaluations(context, results, latest=None if latest is None else latest.isoformat())

    return [
        dg.asset(
            **MONITORING,
            partitions_def=partitions.hours,
            deps=[dg.AssetDep("churn_predictions", partition_mapping=dg.AllPartitionMapping())],
            backfill_policy=dg.BackfillPolicy.single_run(),
            freshness_policy=FRESH,
            kinds={"postgres", "table"},
            io_manager_key="postgres_io_manager",
            check_specs=[
                *drift_check_specs("drift_hourly", partitions.hours, "hour", limits, schema),
                dead_letters_check_spec("drift_hourly", partitions.hours),
            ],
            metadata={
                **DRIFT_HOURLY_COLUMNS,
                "dagster/table_name": "drift_hourly",
                "partition_expr": "hour_timestamp",
            },
        )(drift_hourly),
        dg.asset(
            **MONITORING,
            partitions_def=partitions.days,
            ins={
                "drift_hourly": dg.AssetIn(
                    partition_mapping=dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
                )
            },
            backfill_policy=dg.BackfillPolicy.single_run(),
            freshness_policy=FRESH,
            kinds={"postgres", "table"},
            io_manager_key="postgres_io_manager",
            check_specs=drift_check_specs("drift_daily", partitions.days, "day", limits, schema),
            metadata={**DRIFT_DAILY_COLUMNS, "dagster/table_name": "drift_daily", "partition_expr": "date"},
        )(drift_daily),
    ]
