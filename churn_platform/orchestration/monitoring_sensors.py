"""The sensors of monitoring: one launches evaluations that are due, one requests a new model if they are bad."""

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
from churn_platform.settings import settings

TICK_SECONDS: Final = 29  # the daemon evaluates sensors every 5 s
RETRAINING_TICK_SECONDS: Final = 299
# Days are evaluated this many times less often than hours: their figures change slowly, and only people read them.
DAYS_PER_HOURS: Final = 6
# Outcomes are read together at most this often: a run for each would spend its time on starting.
OUTCOMES_SECONDS: Final = 60
# A job whose runs fail waits, so that the other jobs get their turn: 1, 2, 4 minutes, at most 10.
FIRST_WAIT_SECONDS: Final = 60
LONGEST_WAIT_SECONDS: Final = 600
LATEST_RUNS: Final = 5
SESSION: Final = "churn monitoring sensor"
WHY_TAG: Final = "churn/retraining"
LONGEST_TAG: Final = 500
JOBS: Final = (outcomes_job, hourly_monitoring_job, daily_monitoring_job)
# In the cursor: when the current day was last requested.
TODAY: Final = "today"


@dataclass(frozen=True)
class _Due:
    """A run that is due. `days` is empty unless it evaluates days."""

    request: dg.RunRequest
    days: frozenset[date] = frozenset()

    @property
    def job(self) -> str:
        """Name of its job."""
        return str(self.request.job_name)

    @property
    def key(self) -> str:
        """Its job and its first partition."""
        return f"{self.job} {self.request.partition_key or self.request.tags.get(RANGE_START_TAG, '')}"


@dataclass(frozen=True)
class _State:
    """The cursor of monitoring_sensor: what it remembers between ticks.

    Attributes:
        asked: when a run was last requested, in seconds since 1970, by job and by `_Due.key`.
        outcomes: the newest outcome when the current day was last requested.
        postponed: whether the last tick waited for another process that was starting.
    """

    asked: dict[str, float] = field(default_factory=dict)
    outcomes: str | None = None
    postponed: bool = False

    @classmethod
    def load(cls, cursor: str | None) -> "_State":
        return cls(**json.loads(cursor)) if cursor else cls()

    def dump(self) -> str:
        return json.dumps(asdict(self))

    def seconds_since(self, key: str) -> float:
        """Return how long ago this was requested; infinity if it never was."""
        return time.time() - self.asked[key] if key in self.asked else math.inf

    def next(self, due: Sequence[_Due]) -> _Due:
        """Return the next run: of the job that was requested least recently, the run that was.

        So a job with much to do does not starve the others, and neither does a range whose runs fail.
        """
        return min(due, key=lambda each: (self.asked.get(each.job, 0.0), self.asked.get(each.key, 0.0)))

    def after(self, chosen: _Due, due: Sequence[_Due]) -> "_State":
        """Return the state after requesting the chosen run. Runs that are no longer due are forgotten."""
        known = {each.key for each in due} | {TODAY, *(job.name for job in JOBS)}
        now = time.time()
        asked = {key: at for key, at in self.asked.items() if key in known} | {chosen.job: now, chosen.key: now}
        return replace(self, asked=asked, postponed=False)


@dg.sensor(
    jobs=list(JOBS),
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches, in turn, the evaluation of changed hours and days and the reading of new outcomes.",
)
def monitoring_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, kafka: KafkaResource
) -> dg.SensorResult | dg.SkipReason:
    """Request one run that is due. It is level-triggered, so that the work of a failed run is requested again.

    The job that was requested least recently comes first. If another process is starting, the run waits for the next
    tick, but only once: monitoring is less urgent than the stream.
    """
    from confluent_kafka import KafkaException

    from churn_platform.errors import PlatformError
    from churn_platform.monitoring import lookups, outcomes

    state = _State.load(context.cursor)
    every, since = settings().monitoring.refresh_seconds, _complete_since()
    today = datetime.now(UTC).date()
    with postgres.connect(SESSION) as connection:
        connection.autocommit = True
        hours = lookups.hours_to_judge(connection, at_most_every=every, since=since)
        days = set(lookups.days_to_judge(connection, at_most_every=DAYS_PER_HOURS * every, since=since))
        known = datetime.fromisoformat(state.outcomes) if state.outcomes else None
        newest = lookups.new_outcomes(connection, today, known=known)
        if newest is not None and state.seconds_since(TODAY) >= every:
            days.add(today)
        waiting, problem = 0, ""
        try:
            waiting = outcomes.waiting(connection, kafka.admin(), settings().topics.outcomes)
        except (PlatformError, KafkaException) as error:  # drift is evaluated nevertheless
            problem = f"; the topic {settings().topics.outcomes} cannot be read: {error}"
            context.log.warning(problem)
        pause = OUTCOMES_SECONDS - state.seconds_since(outcomes_job.name)
        wanted = _wanted(hours, days, waiting if pause <= 0 else 0)
        held = {job: reason for job in {each.job for each in wanted} if (reason := _held(context.instance, job))}
        due = [each for each in wanted if each.job not in held]
        soon = f" and are read in {pause:.0f} s" if waiting and pause > 0 else ""
        seen = f"{len(hours)} hours and {len(days)} days are due, {waiting} outcomes wait{soon}{problem}"
        if not due:
            return dg.SkipReason("; ".join([seen, *sorted(held.values())]) + ".")
        if is_another_starting(context.instance, connection) and not state.postponed:
            return dg.SensorResult(
                skip_reason=f"{seen}. Another run is starting; theirs start at the next tick.",
                cursor=replace(state, postponed=True).dump(),
            )
    chosen = state.next(due)
    state = state.after(chosen, wanted)
    if today in chosen.days:
        outcomes_known = state.outcomes if newest is None else newest.isoformat()
        state = replace(state, outcomes=outcomes_known, asked=state.asked | {TODAY: time.time()})
    return dg.SensorResult(run_requests=[chosen.request], cursor=state.dump())


def _wanted(hours: Sequence[datetime], days: Iterable[date], waiting: int) -> list[_Due]:
    """Return all runs that are due, in the order of time within a job."""
    from churn_platform.database.metrics import midnight, windows

    wanted = [_Due(dg.RunRequest(job_name=outcomes_job.name))] if waiting else []
    wanted += [
        _Due(window_request(hourly_monitoring_job.name, hour_key(first), hour_key(last)))
        for first, last in windows(hours, joined_within=timedelta(hours=12))
    ]
    wanted += [
        _Due(
            window_request(daily_monitoring_job.name, day_key(first), day_key(last)),
            days=frozenset((first + timedelta(days=number)).date() for number in range((last - first).days + 1)),
        )
        for first, last in windows(midnight(sorted(days)), joined_within=timedelta(days=7))
    ]
    return wanted


def _held(instance: dg.DagsterInstance, job: str) -> str:
    """Return why no run of this job may be requested now; empty if one may."""
    from churn_platform.stream.planning import failures_in_a_row

    if is_active(instance, job):
        return f"a run of {job} is in progress"
    latest = instance.get_run_records(dg.RunsFilter(job_name=job), limit=LATEST_RUNS)
    failures = failures_in_a_row([record.dagster_run.status == dg.DagsterRunStatus.FAILURE for record in latest])
    if not failures:
        return ""
    wait = min(FIRST_WAIT_SECONDS * 2 ** (failures - 1), LONGEST_WAIT_SECONDS)
    left = wait - (time.time() - latest[0].update_timestamp.timestamp())
    return f"the last runs of {job} failed ({failures}), the next try comes in {left:.0f} s" if left > 0 else ""


@dg.sensor(
    job=retraining_job,
    minimum_interval_seconds=RETRAINING_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Requests a new model if a feature is far off or live performance is too low, and if there is "
    "something new to learn from. Off until turned on.",
)
def retraining_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Request a new model once a day for each cause. The run's tags say why; the cursor holds the day's causes."""
    from churn_platform.monitoring import lookups
    from churn_platform.schema.reader import fingerprint

    with postgres.connect(SESSION) as connection:
        crossings = lookups.crossings(
            connection, since=datetime.now(UTC).date() - timedelta(days=1), auc_loss=settings().monitoring.live_auc_loss
        )
    if not crossings:
        return dg.SkipReason("No feature of the champion is far off, and its live performance is as expected.")
    why = "; ".join(crossing.words for crossing in crossings)
    path = settings().platform.raw_csv
    if not path.is_file():
        return dg.SkipReason(f"{why}. There is no customers file to train on: {path} (CHURN_RAW_CSV).")
    changed = changes(context.instance, revision=code_version(), file=fingerprint(path))
    if not changed:
        return dg.SkipReason(
            f"{why}. The customers file, the settings and the code have not changed since the latest model, so "
            f"training would produce it again. Put newer customers into {path}."
        )
    if is_active(context.instance, retraining_job.name):
        return dg.SkipReason(f"{why}. A training is in progress.")
    keys = [f"{crossing.day} {crossing.cause}" for crossing in crossings]
    asked = [key for key in json.loads(context.cursor or "[]") if key in keys]
    new = [key for key in keys if key not in asked]
    if not new:
        return dg.SkipReason(f"{why}. A new model was already requested today.")
    # One run for all causes. Its key is that of a cause that has not requested one yet.
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=new[0],
                tags={WHY_TAG: why[:LONGEST_TAG], "churn/changed": "; ".join(changed)[:LONGEST_TAG]},
            )
        ],
        cursor=json.dumps(keys),
    )


def _complete_since() -> datetime:
    """Return the moment before which days are no longer complete: see monitoring/pruning.py."""
    from churn_platform.monitoring import pruning

    return pruning.complete_since(
        datetime.now(UTC), archive_days=settings().lifecycle.archive_days, batch_seconds=settings().stream.batch_seconds
    )
