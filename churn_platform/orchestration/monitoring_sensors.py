"""The monitoring sensors: one launches evaluations that are due, one launches a training after drift."""

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

import dagster as dg

from churn_platform.orchestration.assets.training_inputs import changes
from churn_platform.orchestration.jobs import daily_monitoring_job, hourly_monitoring_job, outcomes_job, retraining_job
from churn_platform.orchestration.partitions import day_key, hour_key
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.mlflow import code_version
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.run_requests import RANGE_START_TAG, is_active, is_another_starting, window_request
from churn_platform.schema.current import customers_of, schema_of
from churn_platform.settings import settings

TICK_SECONDS: Final = 29  # the daemon evaluates sensors every 5 s
RETRAINING_TICK_SECONDS: Final = 299
# Daily figures change slowly, and people read them, so they are computed less often.
DAYS_PER_HOURS: Final = 6
# Outcomes that arrive one by one are ingested together: with a run for each, starting would be most of the work.
OUTCOMES_SECONDS: Final = 60
# A job whose runs fail waits before the next one, so that the other jobs get their turn: 1, 2, 4, at most 10 minutes.
FIRST_RETRY_SECONDS: Final = 60
MAX_RETRY_SECONDS: Final = 600
LATEST_RUNS: Final = 5
SESSION: Final = "churn monitoring sensor"
REASON_TAG: Final = "churn/retraining"
MAX_TAG_LENGTH: Final = 500
JOBS: Final = (outcomes_job, hourly_monitoring_job, daily_monitoring_job)
# Cursor key: when the figures of the current day were last requested.
TODAY: Final = "today"


@dataclass(frozen=True)
class _DueRun:
    """A run that is due. `days` is empty unless it computes days."""

    request: dg.RunRequest
    days: frozenset[date] = frozenset()

    @property
    def job(self) -> str:
        """Name of the job."""
        return str(self.request.job_name)

    @property
    def key(self) -> str:
        """Name of the job and first partition."""
        return f"{self.job} {self.request.partition_key or self.request.tags.get(RANGE_START_TAG, '')}"


@dataclass(frozen=True)
class _State:
    """The sensor's cursor: what it remembers from tick to tick.

    Attributes:
        requested: when a run was last requested, in seconds since 1970, by job and by `_DueRun.key`.
        outcomes: time of the newest outcome at the last request for today's figures.
        postponed: whether the last tick waited because another process was starting.
    """

    requested: dict[str, float] = field(default_factory=dict)
    outcomes: str | None = None
    postponed: bool = False

    @classmethod
    def load(cls, cursor: str | None) -> "_State":
        return cls(**json.loads(cursor)) if cursor else cls()

    def dump(self) -> str:
        return json.dumps(asdict(self))

    def seconds_since(self, key: str) -> float:
        """Return how long ago this was requested; infinity if it never was."""
        return time.time() - self.requested[key] if key in self.requested else math.inf

    def next(self, due: Sequence[_DueRun]) -> _DueRun:
        """Return the run whose job was least recently requested, and among several the least recently requested run.

        So no job starves another one, however much it has to do, and no failing window starves the other windows.
        """
        return min(due, key=lambda each: (self.requested.get(each.job, 0.0), self.requested.get(each.key, 0.0)))

    def after(self, chosen: _DueRun, due: Sequence[_DueRun]) -> "_State":
        """Return the state after a request. Runs that are no longer due are removed; jobs stay."""
        known = {each.key for each in due} | {TODAY, *(job.name for job in JOBS)}
        now = time.time()
        requested = {key: at for key, at in self.requested.items() if key in known} | {chosen.job: now, chosen.key: now}
        return replace(self, requested=requested, postponed=False)


@dg.sensor(
    jobs=list(JOBS),
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches, in turn, the monitoring of changed hours and days and the ingestion of new outcomes.",
)
def monitoring_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, kafka: KafkaResource
) -> dg.SensorResult | dg.SkipReason:
    """Request the runs that are due. The sensor is level-triggered, so a failed run is requested again.

    It requests one run per tick, of the job that was least recently requested. If another process is starting, it waits
    for the next tick, once: monitoring is not urgent, and the stream is.
    """
    from confluent_kafka import KafkaException

    from churn_platform.database import monitoring_results
    from churn_platform.errors import PlatformError
    from churn_platform.monitoring import lookups, outcomes

    state = _State.load(context.cursor)
    every, since = settings().monitoring.refresh_seconds, _complete_since()
    today = datetime.now(UTC).date()
    with postgres.connect(SESSION) as connection:
        connection.autocommit = True
        hours = monitoring_results.due_hours(connection, at_most_every=every, since=since)
        days = set(monitoring_results.due_days(connection, at_most_every=DAYS_PER_HOURS * every, since=since))
        known = datetime.fromisoformat(state.outcomes) if state.outcomes else None
        newest = lookups.new_outcomes(connection, today, known=known)
        if newest is not None and state.seconds_since(TODAY) >= every:
            days.add(today)
        lag, problem = 0, ""
        try:
            lag = outcomes.load_lag(connection, kafka.admin(), settings().topics.outcomes)
        except (PlatformError, KafkaException) as error:  # drift is evaluated nevertheless
            problem = f"; the topic {settings().topics.outcomes} cannot be read: {error}"
            context.log.warning(problem)
        rest = OUTCOMES_SECONDS - state.seconds_since(outcomes_job.name)
        wanted = _wanted(hours, days, lag if rest <= 0 else 0)
        blocked = {job: reason for job in {each.job for each in wanted} if (reason := _blocked(context.instance, job))}
        due = [each for each in wanted if each.job not in blocked]
        soon = f" and will be ingested in {rest:.0f} s" if lag and rest > 0 else ""
        status = f"{len(hours)} hours and {len(days)} days are due, {lag} outcomes are new{soon}{problem}"
        if not due:
            return dg.SkipReason("; ".join([status, *sorted(blocked.values())]) + ".")
        if is_another_starting(context.instance, connection) and not state.postponed:
            return dg.SensorResult(
                skip_reason=f"{status}. Another run is starting, so these wait for the next tick.",
                cursor=replace(state, postponed=True).dump(),
            )
    chosen = state.next(due)
    state = state.after(chosen, wanted)
    if today in chosen.days:
        outcomes_known = state.outcomes if newest is None else newest.isoformat()
        state = replace(state, outcomes=outcomes_known, requested=state.requested | {TODAY: time.time()})
    return dg.SensorResult(run_requests=[chosen.request], cursor=state.dump())


def _wanted(hours: Sequence[datetime], days: Iterable[date], lag: int) -> list[_DueRun]:
    """Return all runs that are due, ordered by time within a job."""
    from churn_platform.database.metrics import midnight, windows

    wanted = [_DueRun(dg.RunRequest(job_name=outcomes_job.name))] if lag else []
    wanted += [
        _DueRun(window_request(hourly_monitoring_job.name, hour_key(first), hour_key(last)))
        for first, last in windows(hours, joined_within=timedelta(hours=12))
    ]
    wanted += [
        _DueRun(
            window_request(daily_monitoring_job.name, day_key(first), day_key(last)),
            days=frozenset((first + timedelta(days=number)).date() for number in range((last - first).days + 1)),
        )
        for first, last in windows(midnight(sorted(days)), joined_within=timedelta(days=7))
    ]
    return wanted


def _blocked(instance: dg.DagsterInstance, job: str) -> str:
    """Return why no run of this job may be requested now; empty if one may."""
    from churn_platform.stream.launch_decision import failures_in_a_row

    if is_active(instance, job):
        return f"a run of {job} is in progress"
    latest = instance.get_run_records(dg.RunsFilter(job_name=job), limit=LATEST_RUNS)
    failures = failures_in_a_row([record.dagster_run.status == dg.DagsterRunStatus.FAILURE for record in latest])
    if not failures:
        return ""
    wait = min(FIRST_RETRY_SECONDS * 2 ** (failures - 1), MAX_RETRY_SECONDS)
    left = wait - (time.time() - latest[0].update_timestamp.timestamp())
    return f"the last runs of {job} failed ({failures}), the next attempt is in {left:.0f} s" if left > 0 else ""


@dg.sensor(
    job=retraining_job,
    minimum_interval_seconds=RETRAINING_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Launches a training when a feature is far off or live performance is too low, provided that the "
    "customers file, its schema, the settings or the code have changed since the last one. Off by default.",
)
def retraining_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Request one training per cause and day, by its run key. The run's tags name the causes; so does the cursor."""
    from churn_platform.monitoring import lookups
    from churn_platform.schema.exceptions import CustomersFileMissingError
    from churn_platform.schema.reader import fingerprint

    with postgres.connect(SESSION) as connection:
        crossings = lookups.crossings(
            connection, since=datetime.now(UTC).date() - timedelta(days=1), auc_loss=settings().monitoring.live_auc_loss
        )
    if not crossings:
        return dg.SkipReason("No feature of the champion is far off, and its live performance is as expected.")
    reason = "; ".join(crossing.description for crossing in crossings)
    place = customers_of(settings())
    try:
        file = fingerprint(place)
    except CustomersFileMissingError:
        return dg.SkipReason(f"{reason}. The customers file to train on does not exist: {place} (CHURN_RAW_CSV).")
    changed = changes(context.instance, schema_of(settings()), revision=code_version(), file=file)
    if not changed:
        return dg.SkipReason(
            f"{reason}. The customers file, its schema, the settings and the code are those of the latest model, "
            f"so training would produce the same model again. Put newer customers into {place}."
        )
    if is_active(context.instance, retraining_job.name):
        return dg.SkipReason(f"{reason}. A training is in progress.")
    keys = [f"{crossing.day} {crossing.cause}" for crossing in crossings]
    requested = [key for key in json.loads(context.cursor or "[]") if key in keys]
    new = [key for key in keys if key not in requested]
    if not new:
        return dg.SkipReason(f"{reason}. A training was already requested today.")
    # One run for all causes. Its run key is a cause for which no run has been requested yet.
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=new[0],
                tags={REASON_TAG: reason[:MAX_TAG_LENGTH], "churn/changed": "; ".join(changed)[:MAX_TAG_LENGTH]},
            )
        ],
        cursor=json.dumps(keys),
    )


def _complete_since() -> datetime:
    """Return the start of the first day that is still complete: see monitoring/pruning.py."""
    from churn_platform.monitoring import pruning

    return pruning.complete_since(
        datetime.now(UTC), archive_days=settings().lifecycle.archive_days, batch_seconds=settings().stream.batch_seconds
    )
