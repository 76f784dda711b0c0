"""Monitoring: drift of every feature and of the score, live performance once outcomes are known, and a page per day."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, TypedDict

import dagster as dg
import pandas as pd
import psycopg

from churn_platform.database import model_versions
from churn_platform.monitoring import evaluation, lookups, pruning
from churn_platform.monitoring.drift import WATCHED, Bounds, FeatureReference, Reference, Verdict
from churn_platform.monitoring.live_performance import (
    LEAST_LABELLED,
    MOST_ECE,
    Counts,
    LivePerformance,
    Tally,
    reliability,
)
from churn_platform.monitoring.live_performance import live_performance as figures_of
from churn_platform.orchestration.assets import charts, curves
from churn_platform.orchestration.assets.columns import (
    DRIFT_DAILY_COLUMNS,
    DRIFT_HOURLY_COLUMNS,
    LIVE_COLUMNS,
    OUTCOME_COLUMNS,
    OUTCOME_FIELDS,
)
from churn_platform.orchestration.assets.partition_checks import evaluations, partition_check
from churn_platform.orchestration.assets.predictions import FRESH
from churn_platform.orchestration.assets.ui_metadata import Shown, next_asset, picture, rows_table
from churn_platform.orchestration.partitions import day_key, days, hour_key, hours
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.settings import settings

SESSION: Final = "churn monitoring"
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
REASONS_SHOWN: Final = 3
RATE_CHECKS: Final = ("missing_values", "out_of_range")
LIVE_FIGURES: Final = tuple(each.name for each in fields(LivePerformance))
SEVERITY: Final = {Verdict.SHIFTED: dg.AssetCheckSeverity.WARN, Verdict.FAR: dg.AssetCheckSeverity.ERROR}


class Common(TypedDict):
    """What all assets of this group have in common."""

    group_name: str
    owners: list[str]


MONITORING = Common(group_name="monitoring", owners=["team:ml-platform"])


def drift_check(feature: str) -> str:
    """Name of the check of a feature's drift."""
    return f"drift_{feature}"


def _drift_checks(asset: str, partitions: dg.PartitionsDefinition, period: str) -> list[dg.AssetCheckSpec]:
    shifted, far = settings().drift_shifted, settings().drift_far
    expected = {
        **{
            drift_check(feature): f"{feature} of the {period} is distributed as in the rows that the model learned "
            f"from. A PSI from {shifted:g} on warns, from {far:g} on fails, where no chance explains it."
            for feature in WATCHED
        },
        "missing_values": "about as many nulls as the model learned from.",
        "out_of_range": "hardly a value beyond those that the model learned from.",
    }
    return [partition_check(name, asset, partitions, f"Expected: {text}") for name, text in expected.items()]


customer_outcomes_topic = dg.AssetSpec(
    "customer_outcomes_topic",
    group_name=MONITORING["group_name"],
    kinds={"kafka"},
    owners=["team:core-banking"],
    metadata=OUTCOME_FIELDS,
    description="""The Kafka topic that says later who left and who stayed (setting `OUTCOMES_TOPIC`).

A message is JSON: `true_churn_label` with an `event_id`, or with a `CustomerId` for all that was predicted of that
customer until then. Next: [customer_outcomes](/assets/customer_outcomes), where each counts once.""",
)


@dg.asset(
    **MONITORING,
    deps=[customer_outcomes_topic],
    kinds={"kafka", "postgres", "table"},
    check_specs=[
        dg.AssetCheckSpec(
            "refused",
            asset="customer_outcomes",
            description="Expected: no outcome was refused in the last 24 hours. refused_outcomes has those that were.",
        )
    ],
    metadata={**OUTCOME_COLUMNS, "dagster/table_name": "customer_outcomes"},
)
def customer_outcomes(postgres: PostgresResource, kafka: KafkaResource) -> Iterator[dg.MaterializeResult[None]]:
    """Who left and who stayed, as the outcomes topic said: each message once, with the offsets after it.

    The [monitoring_sensor](/automation) asks for it when outcomes wait. A message that is not an outcome, or has an
    impossible time, is kept in `refused_outcomes` with its reason, and counted here. Each run continues where the last
    one ended. `churn outcomes reset` and `churn outcomes skip` leave out what cannot be read.
    """
    from churn_platform.monitoring import outcomes

    kafka.claim()
    with postgres.connect(SESSION) as connection:
        taken = outcomes.take(connection, kafka.admin(), kafka.stream(), settings().outcomes_topic)
        reasons = lookups.refused_since(connection, datetime.now(UTC) - DAY)
    yield dg.MaterializeResult(
        check_results=[_refused(reasons)],
        metadata={
            "outcomes": taken.left + taken.stayed,
            "left": taken.left,
            "stayed": taken.stayed,
            "refused": taken.refused,
            **next_asset("live_performance"),
        },
    )


@dg.asset(
    **MONITORING,
    partitions_def=hours,
    deps=[dg.AssetDep("churn_predictions", partition_mapping=dg.AllPartitionMapping())],
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=FRESH,
    kinds={"postgres", "table"},
    io_manager_key="postgres_io_manager",
    check_specs=[
        *_drift_checks("drift_hourly", hours, "hour"),
        partition_check(
            "dead_letters",
            "drift_hourly",
            hours,
            "Expected: hardly a dead letter among the events that batches of the hour have read.",
        ),
    ],
    metadata={
        **DRIFT_HOURLY_COLUMNS,
        "dagster/table_name": "drift_hourly",
        "partition_expr": "hour_timestamp",
    },
)
def drift_hourly(
    context: dg.AssetExecutionContext, postgres: PostgresResource
) -> Iterator[dg.MaterializeResult[pd.DataFrame] | dg.Output[None] | dg.AssetCheckEvaluation]:
    """How far each feature and the score are from what the model learned from, per hour of the event.

    The bins are those of the training split, kept with each model version. The distance is the population stability
    index (PSI), beside a chi-squared test that says whether chance explains it. **A check** is about its own hour, by
    the model version that scored most of it; this page shows those of the latest hour. Of an hour of very many
    predictions a sample is taken: `weight` says how many each stands for. An hour of which predictions have been
    archived keeps its figures. The rule is `monitoring/drift.py`; how to read it, docs/explanation/monitoring.md.
    """
    begun = _starts(context.partition_time_window, HOUR)
    rows: list[dict[str, Any]] = []
    with postgres.connect(SESSION) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        predicted = lookups.predicted_hours(connection, begun[0], begun[-1] + HOUR)
        kept = [hour for hour in begun if predicted.get(hour)]
        found = {hour: lookups.sample_hour(connection, hour) for hour in begun if hour not in kept}
        rows += lookups.drift_of_hours(connection, kept)
        versions = {version for sample in found.values() for version in sample.columns}
        references = lookups.references(connection, versions | {row["model_version"] for row in rows})
        for hour, sample in found.items():
            for version, columns in sample.columns.items():
                reference = references.get(version)
                observed = evaluation.collect(reference, columns, weight=sample.weight)
                rows += [
                    {"hour_timestamp": hour, **asdict(each), "version": sample.version, "updated_at": datetime.now(UTC)}
                    for each in evaluation.judge(version, reference, observed, _bounds())
                ]
        read_and_dead = lookups.read_and_dead_by_hour(connection, begun[0], begun[-1] + HOUR)
    by_hour = _by_start(rows, "hour_timestamp")
    results: dict[str, list[dg.AssetCheckResult]] = {}
    for hour in begun:
        of_hour = by_hour.get(hour, [])
        shown = {**_shown(of_hour, references, "drift_daily"), **_kept_note(hour in kept)}
        context.add_asset_metadata(shown, partition_key=hour_key(hour))
        when = f"{hour:%Y-%m-%d %H}:00 UTC"
        results[hour_key(hour)] = [
            *_check_results(_of_main_version(of_hour), references, when),
            _dead_letters(*read_and_dead.get(hour, (0, 0)), when),
        ]
    yield dg.MaterializeResult(value=_frame(rows, "hour_timestamp"))
    with postgres.connect(SESSION) as connection:
        known = lookups.latest_hour(connection)
    # An hour in which all events were bad has no drift, but dead letters.
    latest = max([hour for hour in (known, *read_and_dead) if hour is not None], default=None)
    yield from evaluations(context, results, latest=None if latest is None else hour_key(latest))


@dg.asset(
    **MONITORING,
    partitions_def=days,
    ins={
        "drift_hourly": dg.AssetIn(
            partition_mapping=dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
        )
    },
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=FRESH,
    kinds={"postgres", "table"},
    io_manager_key="postgres_io_manager",
    check_specs=_drift_checks("drift_daily", days, "day"),
    metadata={**DRIFT_DAILY_COLUMNS, "dagster/table_name": "drift_daily", "partition_expr": "date"},
)
def drift_daily(
    context: dg.AssetExecutionContext, drift_hourly: pd.DataFrame, postgres: PostgresResource
) -> Iterator[dg.MaterializeResult[pd.DataFrame] | dg.Output[None] | dg.AssetCheckEvaluation]:
    """The same per day: the sum of its hours, each weighted by the predictions that it holds.

    A day evens out what belongs to the time of the day. A feature that is far off here makes the
    [retraining_sensor](/automation), if it is on, ask for a new model. **A check** is about its own day; this page
    shows those of the latest one. A day of which hours are no longer kept keeps its figures.
    """
    hourly = drift_hourly.assign(date=pd.to_datetime(drift_hourly["hour_timestamp"], utc=True).dt.date)
    begun = _starts(context.partition_time_window, DAY)
    with postgres.connect(SESSION) as connection:
        kept = _days_with_lost_hours(connection, begun, drift_hourly)
        rows = lookups.drift_of_days(connection, kept)
        versions = {int(version) for version in hourly["model_version"]} | {row["model_version"] for row in rows}
        references = lookups.references(connection, versions)
    results: dict[str, list[dg.AssetCheckResult]] = {}
    for day in (start.date() for start in begun):
        if day not in kept:
            of_day = hourly[hourly["date"] == day]
            version = int(of_day.groupby("hour_timestamp")["version"].max().sum())
            for model_version, observed in evaluation.merge_days(_records(of_day)).items():
                judged = evaluation.judge(model_version, references.get(model_version), observed, _bounds())
                now = datetime.now(UTC)
                rows += [{"date": day, **asdict(each), "version": version, "updated_at": now} for each in judged]
        day_rows = [row for row in rows if row["date"] == day]
        shown = {**_shown(day_rows, references, "monitoring_report"), **_kept_note(day in kept)}
        context.add_asset_metadata(shown, partition_key=day.isoformat())
        results[day.isoformat()] = _check_results(_of_main_version(day_rows), references, day.isoformat())
    yield dg.MaterializeResult(value=_frame(rows, "date"))
    with postgres.connect(SESSION) as connection:
        latest = lookups.latest_day(connection)
    yield from evaluations(context, results, latest=None if latest is None else latest.isoformat())


@dg.asset(
    **MONITORING,
    partitions_def=days,
    deps=[
        customer_outcomes,
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
            days,
            "Expected: the champion tells those who leave from those who stay about as well as it did out of fold, "
            "when it was trained (LIVE_AUC_LOSS).",
        ),
        partition_check(
            "calibration",
            "live_performance",
            days,
            f"Expected: of customers scored 30 %, about three in ten leave (ECE at most {MOST_ECE:g}).",
        ),
    ],
    metadata={**LIVE_COLUMNS, "dagster/table_name": "live_performance", "partition_expr": "date"},
)
def live_performance(
    context: dg.AssetExecutionContext, postgres: PostgresResource
) -> Iterator[dg.MaterializeResult[pd.DataFrame] | dg.Output[None] | dg.AssetCheckEvaluation]:
    """How good the scores turned out to be: by model version, over the LIVE_WINDOW_DAYS up to the day.

    An outcome is what the event itself said (`true_churn_label`), or what came later to the outcomes topic, of the
    event or of the customer; the later one counts. ROC AUC is of scores counted in 1,000 bins. A version has no row
    before one of its predictions has an outcome. **A check** is about its own day; this page shows those of the latest
    one. A day whose window is no longer kept as a whole keeps its figures.
    """
    window_days = settings().live_window_days
    rows: list[dict[str, Any]] = []
    results: dict[str, list[dg.AssetCheckResult]] = {}
    with postgres.connect(SESSION) as connection:
        champion = model_versions.champion(connection)
        for day in _starts(context.partition_time_window, DAY):
            start, end = day + DAY - window_days * DAY, day + DAY
            kept = start < _complete_since() or any(lookups.predicted_hours(connection, start, end).values())
            counted = {} if kept else lookups.labelled(connection, start, end)
            of_day = (
                lookups.live_of_days(connection, [day.date()])
                if kept
                else _live_rows(day.date(), window_days, counted, lookups.expected_aucs(connection, counted))
            )
            rows += of_day
            main = _main_live_row(of_day, None if champion is None else champion.version)
            shown = {
                **_live_figures(of_day, main),
                **_reliability(None if main is None else counted.get(main["model_version"])),
                **_kept_note(kept),
                **next_asset("monitoring_report"),
            }
            context.add_asset_metadata(shown, partition_key=day_key(day))
            results[day_key(day)] = _live_checks(main)
    yield dg.MaterializeResult(value=_frame(rows, "date"))
    with postgres.connect(SESSION) as connection:
        latest = lookups.latest_live_day(connection)
    yield from evaluations(context, results, latest=None if latest is None else latest.isoformat())


@dg.asset(
    **MONITORING,
    partitions_def=days,
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=FRESH,
    kinds={"html"},
)
def monitoring_report(
    context: dg.AssetExecutionContext,
    drift_daily: pd.DataFrame,
    live_performance: pd.DataFrame,
    postgres: PostgresResource,
) -> dg.MaterializeResult[None]:
    """A page per day, for people who do not open Dagster: drift, rates, dead letters and live performance.

    HTML in one file, in the artifacts (`reports/`): it loads nothing from elsewhere and can be mailed as it is.
    """
    from churn_platform.monitoring import report

    with postgres.connect(SESSION) as connection:
        references = lookups.references(connection, {int(version) for version in drift_daily["model_version"]})
        for start in _starts(context.partition_time_window, DAY):
            day = start.date()
            page = report.Page(
                day=day,
                drift=_records(drift_daily[drift_daily["date"] == day]),
                live=_records(live_performance[live_performance["date"] == day]),
                references=references,
                read_and_dead=lookups.read_and_dead(connection, start, start + DAY),
                auc_loss=settings().live_auc_loss,
            )
            uri = report.save(page, settings().artifacts)
            context.add_asset_metadata({"report": dg.MetadataValue.path(uri)}, partition_key=day_key(start))
    return dg.MaterializeResult()


def _bounds() -> Bounds:
    return Bounds(shifted=settings().drift_shifted, far=settings().drift_far, least=settings().drift_least_predictions)


def _starts(window: dg.TimeWindow, step: timedelta) -> list[datetime]:
    """The hours or days that begin in a window, UTC."""
    start = window.start.astimezone(UTC)
    return [start + number * step for number in range(round((window.end.astimezone(UTC) - start) / step))]


def _by_start(rows: Sequence[dict[str, Any]], name: str) -> dict[datetime, list[dict[str, Any]]]:
    """Rows by the moment in a column, UTC."""
    found: dict[datetime, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row[name].astimezone(UTC), []).append(row)
    return found


def _frame(rows: Sequence[Mapping[str, Any]], key: str) -> pd.DataFrame:
    return pd.DataFrame(list(rows)) if rows else pd.DataFrame({key: []})


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _of_main_version(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the model version that scored most, by feature."""
    sampled: dict[int, int] = {}
    for row in rows:
        sampled[row["model_version"]] = max(sampled.get(row["model_version"], 0), row["sampled"])
    main = max(sampled, key=lambda version: sampled[version], default=None)
    return [row for row in rows if row["model_version"] == main]


def _shown(rows: Sequence[dict[str, Any]], references: Mapping[int, Reference], following: str) -> Shown:
    """What the UI shows of an hour or a day: every feature with its distance, and how the farthest one looks."""
    main = sorted(_of_main_version(rows), key=lambda row: -(row["psi"] or 0.0))
    if not main:
        return {"dagster/partition_row_count": 0, "predictions": 0}
    first = main[0]
    shown: Shown = {
        "dagster/partition_row_count": len(rows),
        "predictions": round(first["sampled"] * first["weight"]),
        "model_version": first["model_version"],
        **rows_table(
            "features",
            (
                {
                    name: row[name]
                    for name in ("feature", "psi", "p_value", "verdict", "missing_rate", "out_of_range_rate")
                }
                for row in main
            ),
        ),
        **next_asset(following),
    }
    if first["psi"] is not None:
        reference = references[first["model_version"]].features[first["feature"]]
        shown |= {
            "greatest_psi": float(first["psi"]),
            "farthest_feature": first["feature"],
            "farthest_now": picture(_bars(first["counts"], reference), f"{first['feature']} now, by bin"),
            "farthest_then": picture(_bars(reference.counts, reference), f"{first['feature']} in training, by bin"),
        }
    return shown


def _bars(counts: Sequence[int], reference: FeatureReference) -> charts.Chart:
    labels = reference.labels
    shown = labels if reference.categories else [labels[0], labels[-2]]
    return charts.Chart(list(counts), shown)


def _check_results(
    rows: Sequence[dict[str, Any]], references: Mapping[int, Reference], when: str
) -> list[dg.AssetCheckResult]:
    """The checks of a drift asset, from the rows of one time and one model version."""
    if not rows or rows[0]["psi"] is None:
        why = f"model version {rows[0]['model_version']} has no reference: train again" if rows else "no prediction"
        names = (*map(drift_check, WATCHED), *RATE_CHECKS)
        return [
            dg.AssetCheckResult(check_name=name, passed=True, description=f"Not judged, {when}: {why}.")
            for name in names
        ]
    reference = references[rows[0]["model_version"]]
    missing_more = {
        row["feature"]: row["missing_rate"] - reference.features[row["feature"]].missing_rate for row in rows
    }
    outside = {row["feature"]: row["out_of_range_rate"] for row in rows}
    enough = rows[0]["sampled"] >= settings().drift_least_predictions
    return [
        *(_drift_result(row, when) for row in rows),
        _rate_result("missing_values", missing_more, evaluation.MISSING_MORE, when, enough=enough),
        _rate_result("out_of_range", outside, evaluation.OUT_OF_RANGE, when, enough=enough),
    ]


def _drift_result(row: Mapping[str, Any], when: str) -> dg.AssetCheckResult:
    verdict = Verdict(row["verdict"])
    return dg.AssetCheckResult(
        check_name=drift_check(row["feature"]),
        passed=verdict not in SEVERITY,
        severity=SEVERITY.get(verdict, dg.AssetCheckSeverity.WARN),
        description=f"Seen, {when}, model version {row['model_version']}: {verdict.value}, PSI {row['psi']:.3f} over "
        f"{row['sampled']:,} predictions (p {row['p_value']:.2g}). Expected: a PSI below "
        f"{settings().drift_shifted:g}, or one that chance explains.",
        metadata={"psi": row["psi"], "p_value": row["p_value"], "predictions": row["sampled"], "when": when},
    )


def _rate_result(
    name: str, rates: Mapping[str, float], bounds: tuple[float, float], when: str, *, enough: bool
) -> dg.AssetCheckResult:
    worst = max(rates, key=lambda feature: rates[feature])
    verdict = evaluation.level(rates[worst], bounds) if enough else Verdict.TOO_FEW
    return dg.AssetCheckResult(
        check_name=name,
        passed=verdict not in SEVERITY,
        severity=SEVERITY.get(verdict, dg.AssetCheckSeverity.WARN),
        description=f"Seen, {when}: most of {worst}, {100 * rates[worst]:.2f} % of the predictions. Expected: less "
        f"than {100 * bounds[0]:g} %; from {100 * bounds[1]:g} % on it fails.",
        metadata={"feature": worst, "rate": rates[worst], "when": when},
    )


def _dead_letters(read: int, dead: int, when: str) -> dg.AssetCheckResult:
    rate = dead / read if read else 0.0
    enough = read >= settings().drift_least_predictions
    verdict = evaluation.level(rate, evaluation.DEAD_LETTERS) if enough else Verdict.TOO_FEW
    return dg.AssetCheckResult(
        check_name="dead_letters",
        passed=verdict not in SEVERITY,
        severity=SEVERITY.get(verdict, dg.AssetCheckSeverity.WARN),
        description=f"Seen, batches opened {when}: {dead:,} dead letters of {read:,} events. Expected: less than "
        f"{100 * evaluation.DEAD_LETTERS[0]:g} %; from {100 * evaluation.DEAD_LETTERS[1]:g} % on it fails.",
        metadata={"events": read, "dead_letters": dead, "rate": rate, "when": when},
    )


def _refused(reasons: Mapping[str, int]) -> dg.AssetCheckResult:
    """The check of the outcomes, from how many were refused by reason."""
    commonest = "; ".join(f"{count:,} times: {reason}" for reason, count in list(reasons.items())[:REASONS_SHOWN])
    return dg.AssetCheckResult(
        check_name="refused",
        passed=not reasons,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Seen: {sum(reasons.values()):,} outcomes refused in the last 24 hours. {commonest}".rstrip(),
        metadata={"refused": sum(reasons.values())},
    )


def _complete_since() -> datetime:
    """The start of the first day of which everything is still there."""
    return pruning.complete_since(
        datetime.now(UTC), archive_days=settings().archive_days, batch_seconds=settings().batch_seconds
    )


def _days_with_lost_hours(
    connection: psycopg.Connection, begun: Sequence[datetime], drift_hourly: pd.DataFrame
) -> list[date]:
    """Days of which an hour had predictions and has no drift any more, and cannot get it again."""
    known = {
        moment.to_pydatetime().astimezone(UTC) for moment in pd.to_datetime(drift_hourly["hour_timestamp"], utc=True)
    }
    complete_since = _complete_since()
    lost = {
        hour.date()
        for hour, archived in lookups.predicted_hours(connection, begun[0], begun[-1] + DAY).items()
        if hour not in known and (archived or hour < complete_since)
    }
    return sorted(lost)


def _kept_note(kept: bool) -> Shown:
    """What the UI says of a partition whose figures were left as they are."""
    note = "Some of what this was made of has been archived or deleted: the figures stay as they were."
    return {"note": note} if kept else {}


def _live_rows(
    day: date, window_days: int, counted: Mapping[int, tuple[Counts, Tally]], expected: Mapping[int, float]
) -> list[dict[str, Any]]:
    """The day's rows of live_performance."""
    return [
        {
            "date": day,
            "model_version": version,
            "window_days": window_days,
            **figures_of(*found).as_dict(),
            "expected_roc_auc": expected.get(version),
            "updated_at": datetime.now(UTC),
        }
        for version, found in sorted(counted.items())
    ]


def _main_live_row(rows: Sequence[dict[str, Any]], champion: int | None) -> dict[str, Any] | None:
    """The champion's row where it has outcomes, else that of the version with most of them; None without any."""
    return max(rows, key=lambda row: (row["model_version"] == champion, row["labelled"]), default=None)


def _live_figures(rows: Sequence[dict[str, Any]], main: Mapping[str, Any] | None) -> Shown:
    if main is None:
        return {"dagster/partition_row_count": 0, "labelled": 0}
    figures = {name: main[name] for name in LIVE_FIGURES if main[name] is not None}
    table = ({name: row[name] for name in ("model_version", *LIVE_FIGURES)} for row in rows)
    return {
        "dagster/partition_row_count": len(rows),
        "version": main["model_version"],
        **figures,
        **rows_table("versions", table),
    }


def _reliability(counted: tuple[Counts, Tally] | None) -> Shown:
    """The reliability chart of what was counted; none where nothing was."""
    if counted is None:
        return {}
    svg = curves.curve(reliability(counted[0]), title="churn rate (up) by score")
    return {"reliability": dg.MetadataValue.md(curves.markdown(svg, "Churn rate by score"))}


def _live_checks(row: Mapping[str, Any] | None) -> list[dg.AssetCheckResult]:
    """The checks of a day, from the row of one model version."""
    if row is None or row["labelled"] < LEAST_LABELLED:
        seen = 0 if row is None else row["labelled"]
        why = f"Not judged: {seen:,} predictions have an outcome, {LEAST_LABELLED} are needed."
        return [
            dg.AssetCheckResult(check_name=name, passed=True, description=why) for name in ("roc_auc", "calibration")
        ]
    found, version, expected = LivePerformance.of_row(row), row["model_version"], row["expected_roc_auc"]
    loss = settings().live_auc_loss
    unknown = "unknown, it was not measured out of fold"
    auc = "none (all left, or all stayed)" if found.roc_auc is None else f"{found.roc_auc:.4f}"
    return [
        dg.AssetCheckResult(
            check_name="roc_auc",
            passed=expected is None or not found.is_worse_than(expected, by=loss),
            severity=dg.AssetCheckSeverity.ERROR,
            description=f"Seen: ROC AUC {auc} of model version {version} over {found.labelled:,} outcomes. Expected: "
            f"{unknown if expected is None else f'{expected:.4f}, less {loss:g} at most'}.",
            metadata={"labelled": found.labelled, "version": version},
        ),
        dg.AssetCheckResult(
            check_name="calibration",
            passed=found.ece <= MOST_ECE,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"Seen: an expected calibration error of {found.ece:.4f}, scores of {found.mean_score:.4f} in "
            f"the mean where {found.churn_rate:.4f} left. Expected: at most {MOST_ECE:g}.",
            metadata={"ece": found.ece, "mean_score": found.mean_score, "churn_rate": found.churn_rate},
        ),
    ]
