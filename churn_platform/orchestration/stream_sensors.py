"""The sensors: one looks whether events wait, one whether hours or days are out of date. Neither reads an event."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg

from churn_platform.environments.config import LANE
from churn_platform.orchestration.assets.batches import orphan_materialization
from churn_platform.orchestration.assets.predictions import churn_predictions_topic, customer_events
from churn_platform.orchestration.assets.ui_metadata import rows_table
from churn_platform.orchestration.jobs import daily_metrics_job, hourly_metrics_job, prediction_stream_job
from churn_platform.orchestration.partitions import batch_key, batches, day_key, hour_key
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.run_launcher import SESSION_TAG, Worker, worker_of
from churn_platform.settings import settings

if TYPE_CHECKING:  # the code server needs them when a tick runs, not when it starts
    import psycopg

    from churn_platform.database import ledger
    from churn_platform.positions.backlog import Backlog

ACTIVE: Final = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
LAUNCHED: Final = tuple(status for status in ACTIVE if status != dg.DagsterRunStatus.QUEUED)
STARTING: Final = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)
# Of runs that the sensor asked for. A replay started in the UI streams nothing and does not count.
STREAM_TAG: Final = "churn/stream"
# The loop of the daemon turns every 5 s; an interval of 5 would make that 10.
TICK_SECONDS: Final = 4
# Every third turn: figures are no older than METRICS_SECONDS and this, and a tick is most of what an idle stack does.
METRICS_TICK_SECONDS: Final = 14
# A streaming run that has just taken over is given its standby at the next tick of the other sensor.
STANDBY_SECONDS: Final = 10
# A run that had a session in PostgreSQL and so many seconds long has none is dead, whatever its record says: one that
# lost its connection comes back within three. So is one that its launcher says has no process.
DEAD_SECONDS: Final = 10
# A run that was made and not submitted in this time never is: whoever made it died in between.
UNSUBMITTED_SECONDS: Final = 120
# A launcher that so long knows nothing of a run was never asked, or does not keep what it knew. Longer than any that
# runs are launched with needs to answer again.
UNKNOWN_SECONDS: Final = 900
# A run that starts takes a core for some seconds; one that is starting for longer waits for its machine.
BUSY_STARTING_SECONDS: Final = 60
# Failed runs that the wait before the next try looks at.
LATEST_RUNS: Final = 8
OBSERVE_SECONDS: Final = 60
# The cursor of dirty_hours_sensor: what the last tick did with figures that are out of date.
POSTPONED: Final = "postponed"
ASKED_FOR: Final = "asked for"
RANGE_START_TAG: Final = "dagster/asset_partition_range_start"
RANGE_END_TAG: Final = "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class _StreamingRuns:
    """`active` stream or are about to; `starting_seconds`: of those that have no session yet, the longest wait."""

    active: list[dg.DagsterRun]
    starting_seconds: float | None
    missing: dict[str, float]
    failures: int
    since_failure: float | None

    @property
    def keys(self) -> list[str]:
        """Batch keys of the active runs."""
        return [run.tags["dagster/partition"] for run in self.active if "dagster/partition" in run.tags]


@dataclass(frozen=True)
class _State:
    """What the sensor keeps from tick to tick, none of which it depends on: its cursor."""

    observed: float = 0.0
    waiting: int = -1
    held: int = 0
    missing: dict[str, float] = field(default_factory=dict)
    # By Kafka partition: the last stable offset behind which something is held back, and since when it is the same.
    stuck: dict[str, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def load(cls, cursor: str | None) -> "_State":
        known = json.loads(cursor) if cursor else {}
        return cls(**{each.name: known[each.name] for each in fields(cls) if each.name in known})

    def dump(self) -> str:
        return json.dumps(asdict(self))

    def wants_observation(self, waiting: int, held: int, now: float) -> bool:
        """Once a minute, and when the lag comes to rest or begins."""
        changed = (waiting == 0) != (self.waiting == 0) or (held == 0) != (self.held == 0)
        due = now - self.observed >= OBSERVE_SECONDS and not waiting == self.waiting == held == self.held == 0
        return changed or due

    def stuck_at(self, backlog: "Backlog", now: float) -> dict[str, tuple[int, float]]:
        """What is held back now, and since when: as before, where the transaction is the same."""
        ends = {str(partition): backlog.ends[partition] for partition, count in backlog.held.items() if count}
        known = {partition: since for partition, (end, since) in self.stuck.items() if end == ends.get(partition)}
        return {partition: (end, known.get(partition, now)) for partition, end in ends.items()}


@dg.sensor(
    job=prediction_stream_job,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Compares the events topic with the ledger and launches a streaming run when events wait. "
    "Its skip reason says what it saw.",
)
def customer_events_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, kafka: KafkaResource
) -> dg.SensorResult | dg.SkipReason:
    """Ask for a streaming run when offsets wait and none is live, and for a standby while events flow."""
    from churn_platform.database import environments, ledger, model_versions
    from churn_platform.kafka.exceptions import TopicMissingError
    from churn_platform.positions.backlog import load_backlog
    from churn_platform.stream import planning

    config, now = kafka.stream(), time.time()
    kafka.claim()
    with postgres.connect("churn sensor") as connection:
        connection.autocommit = True
        environments.note(connection, config.environment)
        try:
            backlog = load_backlog(connection, kafka.admin(), config)
        except TopicMissingError as error:
            return dg.SkipReason(str(error))
        state = _State.load(context.cursor)
        stuck, held = state.stuck_at(backlog, now), sum(backlog.held.values())
        runs = _streaming_runs(context.instance, connection, state.missing, now)
        events: list[dg.AssetMaterialization | dg.AssetObservation] = [
            orphan_materialization(batch, ledger.ranges_of(connection, batch.batch))
            for batch in _unreported(context.instance, connection)
        ]
        batch = ledger.open_batch(connection)
        decision = planning.decide(
            planning.Observed(
                waiting=backlog.waiting,
                held=held,
                held_seconds=max((now - since for _, since in stuck.values()), default=0.0),
                unpublished=ledger.may_be_unpublished(connection, config.events_topic),
                active_runs=len(runs.active),
                starting_seconds=runs.starting_seconds,
                has_champion=model_versions.champion(connection) is not None,
                paused_since=ledger.paused_since(connection, config.events_topic),
                batch_open_seconds=_age(batch.opened if batch else None, now),
                last_commit_seconds=_age(batch.last_commit if batch else None, now),
                failures=runs.failures,
                since_failure=runs.since_failure,
            ),
            standby=settings().stream.standby,
            batch_seconds=config.batch_seconds,
        )
        # Asking for the markers takes half a second. Where a run is to start, the next tick does it.
        if not decision.launch and state.wants_observation(backlog.waiting, held, now):
            events += _observations(backlog, kafka.published(backlog.topic))
            state = replace(state, observed=now, waiting=backlog.waiting, held=held)
        cursor = replace(state, missing=runs.missing, stuck=stuck).dump()
        if not decision.launch:
            return dg.SensorResult(skip_reason=decision.reason, asset_events=events, cursor=cursor)
        if batch is not None and not runs.active:
            key = batch.batch  # its run died: resumed, it is published to its end and closed, events or not
        else:
            # A key that a former tick planned and no run opened is used again: a tick that died leaves nothing behind.
            key = ledger.unopened_batch(connection, excluding=runs.keys) or batch_key(datetime.now(UTC))
        ledger.plan_batch(connection, key)
    context.log.info(decision.reason)
    request = dg.RunRequest(
        partition_key=key,
        tags={
            STREAM_TAG: "live",
            "churn/topic": config.events_topic,
            "churn/lane": LANE,
            "dagster/priority": "10",
        },
    )
    return dg.SensorResult(
        run_requests=[request],
        dynamic_partitions_requests=[batches.build_add_request([key])],
        asset_events=events,
        cursor=cursor,
    )


def _streaming_runs(
    instance: dg.DagsterInstance, connection: "psycopg.Connection", missing: Mapping[str, float], now: float
) -> _StreamingRuns:
    """The streaming runs that live, after those whose process is gone have been failed.

    A run whose code server died with it keeps its STARTED record for ever and would stall the stream. One of another
    job would stall that job's figures, and take a place of the queue.

    Args:
        missing: since when an active run has been seen without a session in PostgreSQL, in seconds since 1970, by id.
    """
    from churn_platform.database import ledger
    from churn_platform.stream.planning import failures_in_a_row

    sessions = ledger.streaming_sessions(connection)
    records = instance.get_run_records(dg.RunsFilter(tags={STREAM_TAG: "live"}), limit=LATEST_RUNS)
    live = [record for record in records if record.dagster_run.status in ACTIVE]
    finished = [record for record in records if record.dagster_run.status not in ACTIVE]
    launched = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(statuses=list(LAUNCHED)))}
    launched |= {record.dagster_run.run_id: record.dagster_run for record in live}
    absent = [
        run
        for run in launched.values()
        if run.run_id not in sessions and run.status != dg.DagsterRunStatus.QUEUED and _has_sessions(run)
    ]
    since = {run.run_id: missing.get(run.run_id, now) for run in absent}
    dead = {run.run_id for run in absent if _fail_if_dead(instance, connection, run, now - since[run.run_id])}
    closed = ledger.closed_batches(connection, [key for each in live if (key := _key(each.dagster_run)) is not None])
    # A run whose batch is closed explains it, or replays it: it lives, and streams nothing.
    active = [each.dagster_run for each in live if each.dagster_run.run_id not in dead]
    active = [run for run in active if _key(run) not in closed]
    count = failures_in_a_row([record.dagster_run.status == dg.DagsterRunStatus.FAILURE for record in finished])
    ended = finished[0].end_time if count else None
    return _StreamingRuns(
        active=active,
        starting_seconds=max((now - since[run.run_id] for run in active if run.run_id in since), default=None),
        missing={run_id: moment for run_id, moment in since.items() if run_id not in dead},
        failures=count,
        since_failure=None if ended is None else now - ended,
    )


def _has_sessions(run: dg.DagsterRun) -> bool:
    """Whether a run that lives has a session, or is still to start: one without PostgreSQL never has."""
    return run.status in STARTING or SESSION_TAG in run.tags or STREAM_TAG in run.tags


def _key(run: dg.DagsterRun) -> str | None:
    """The batch key of a streaming run."""
    return run.tags.get("dagster/partition")


def _fail_if_dead(
    instance: dg.DagsterInstance, connection: "psycopg.Connection", run: dg.DagsterRun, absent_seconds: float
) -> bool:
    """Fail a run that has had no session for so long, if it is dead; whether it was.

    A streaming run that has had its session is dead without one: it does not report what it did without asking first.
    Of any other run, and of one that is still to start, its launcher knows whether it has a process.
    """
    from churn_platform.database import ledger

    if absent_seconds <= DEAD_SECONDS:
        return False
    words = f"PostgreSQL has had no session of this run for {absent_seconds:.0f} s."
    if SESSION_TAG not in run.tags or STREAM_TAG not in run.tags:
        if run.status == dg.DagsterRunStatus.NOT_STARTED:
            worker, patience = None, UNSUBMITTED_SECONDS
            words = f"It was not submitted within {absent_seconds:.0f} s."
        else:
            worker = worker_of(instance, run)
            only_the_launcher_knows = run.status in STARTING or STREAM_TAG not in run.tags
            patience = UNKNOWN_SECONDS if worker is Worker.UNKNOWN and only_the_launcher_knows else DEAD_SECONDS
            words += f" The run launcher says of its process: {worker.name.lower()}."
        if worker is Worker.ALIVE or absent_seconds <= patience:
            return False
    with ledger.dead_run(connection, run.run_id) as is_dead:
        latest = instance.get_run_by_id(run.run_id)
        if not is_dead or latest is None or latest.status != run.status:
            return False
        instance.report_run_failed(run, f"Its process is gone. {words}")
    return True


def _unreported(instance: dg.DagsterInstance, connection: "psycopg.Connection") -> "list[ledger.Batch]":
    """Closed batches that Dagster has no materialization of and no live run will give one.

    Only what Dagster is seen to hold counts as reported: a tick that dies before its events are stored is made good.
    """
    from churn_platform.database import ledger

    missing = []
    for batch in ledger.unreported_batches(connection):
        run = instance.get_run_by_id(batch.run_id) if batch.run_id else None
        if run is not None and not run.is_finished:
            continue
        known = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey("churn_predictions"), asset_partitions=[batch.batch]), limit=1
        )
        if known.records:
            ledger.mark_reported(connection, batch.batch)
        else:
            missing.append(batch)
    return missing


def _observations(backlog: "Backlog", published: Mapping[int, int]) -> list[dg.AssetObservation]:
    """Both topics' lags: offsets that wait to be scored, and those scored that wait to be published."""
    published = {p: published.get(p, position) for p, position in backlog.positions.items()}
    return [
        _lag(customer_events.key, reached=backlog.positions, ends=backlog.ends, held=backlog.held),
        _lag(churn_predictions_topic.key, reached=published, ends=backlog.positions),
    ]


def _lag(
    asset: dg.AssetKey,
    *,
    reached: Mapping[int, int],
    ends: Mapping[int, int],
    held: Mapping[int, int] | None = None,
) -> dg.AssetObservation:
    """How far a stage of the stream is behind, in offsets of the events topic, by Kafka partition.

    Args:
        held: offsets behind the ends, which wait for a transaction that is still open.
    """
    lag = {partition: max(0, end - reached[partition]) for partition, end in ends.items()}
    rows = [{"kafka_partition": p, "reached": reached[p], "end": ends[p], "lag": lag[p]} for p in ends]
    metadata: dict[str, int] = {"lag": sum(lag.values())}
    if held is not None:
        metadata["behind_open_transactions"] = sum(held.values())
        rows = [{**row, "behind_open_transactions": held[row["kafka_partition"]]} for row in rows]
    return dg.AssetObservation(asset, metadata={**metadata, **rows_table("partitions", rows)})


def _age(moment: datetime | None, now: float) -> float | None:
    return None if moment is None else now - moment.timestamp()


@dg.sensor(
    jobs=[hourly_metrics_job, daily_metrics_job],
    minimum_interval_seconds=METRICS_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches hourly and daily metrics for the hours and days that commits and replays have changed.",
)
def dirty_hours_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Ask for the figures that are out of date: level-triggered, so that nothing is missed by a run that failed.

    A process that starts takes a core for seconds. Where another one starts, figures wait for the next tick, once: two
    at a time on two cores would leave the stream nothing.
    """
    from churn_platform.database import metrics

    with postgres.connect("churn sensor") as connection:
        hours = metrics.dirty_hours(connection, at_most_every=settings().metrics.refresh_seconds)
        days = metrics.dirty_days(connection, at_most_every=settings().metrics.refresh_seconds)
        another_starts = bool(hours or days) and is_another_starting(context.instance, connection)
    requests: list[dg.RunRequest] = []
    for job_name, starts, joined_within, key in (
        (hourly_metrics_job.name, hours, timedelta(hours=12), hour_key),
        (daily_metrics_job.name, metrics.midnight(days), timedelta(days=7), day_key),
    ):
        if starts and not is_active(context.instance, job_name):
            requests += [
                window_request(job_name, key(first), key(last))
                for first, last in metrics.windows(starts, joined_within=joined_within)
            ]
    if not requests:
        if hours or days:
            return dg.SkipReason(f"{len(hours)} hours and {len(days)} days are out of date; their runs are under way.")
        return dg.SkipReason("Every hour and day is up to date.")
    if another_starts and context.cursor != POSTPONED:
        return dg.SensorResult(
            skip_reason=f"{len(hours)} hours and {len(days)} days are out of date. Another run is starting; theirs "
            f"follow at the next tick.",
            cursor=POSTPONED,
        )
    return dg.SensorResult(run_requests=requests, cursor=ASKED_FOR)


def is_another_starting(instance: dg.DagsterInstance, connection: "psycopg.Connection") -> bool:
    """Whether a run's process is starting, or a standby's is about to."""
    from churn_platform.database import ledger

    batch = ledger.open_batch(connection)
    opened = _age(batch.opened if batch else None, time.time())
    if settings().stream.standby and opened is not None and opened < STANDBY_SECONDS:
        return True
    since = datetime.now(UTC) - timedelta(seconds=BUSY_STARTING_SECONDS)
    return instance.get_runs_count(dg.RunsFilter(statuses=list(STARTING), created_after=since)) > 0


def is_active(instance: dg.DagsterInstance, job_name: str) -> bool:
    """Whether a run of the job waits, starts or works."""
    return instance.get_runs_count(dg.RunsFilter(job_name=job_name, statuses=list(ACTIVE))) > 0


def window_request(job_name: str, first: str, last: str) -> dg.RunRequest:
    """One run for a window of partitions, from the first to the last key."""
    if first == last:
        return dg.RunRequest(job_name=job_name, partition_key=first)
    return dg.RunRequest(job_name=job_name, tags={RANGE_START_TAG: first, RANGE_END_TAG: last})
