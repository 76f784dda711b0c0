"""The stream's sensors: one launches streaming runs, one launches metrics runs. Neither reads any events."""

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
# On runs that the sensor requested. A replay started in the UI does not stream, so it does not have this tag.
STREAM_TAG: Final = "churn/stream"
# The daemon evaluates sensors every 5 s. An interval of 5 would be rounded up to 10.
TICK_SECONDS: Final = 4
# Every third evaluation: metrics are at most METRICS_SECONDS plus this old. Ticks are most of an idle stack's work.
METRICS_TICK_SECONDS: Final = 14
# Time after a takeover within which the streaming run gets its standby, at the next tick of the other sensor.
STANDBY_SECONDS: Final = 10
# A run that had a session in PostgreSQL and has had none for this long is dead, whatever its record says: a run that
# lost its connection reconnects within 3 s. A run without a process, according to its launcher, is dead as well.
DEAD_SECONDS: Final = 10
# A run that was created but not submitted within this time never will be: its creator died in between.
UNSUBMITTED_SECONDS: Final = 120
# A launcher that knows nothing of a run for this long was never asked to launch it, or has lost its records. This is
# longer than any launcher needs to become available again.
UNKNOWN_SECONDS: Final = 900
# A starting run uses a core for some seconds. One that takes longer is waiting for its machine.
BUSY_STARTING_SECONDS: Final = 60
# Number of latest runs that the delay before a retry is computed from.
LATEST_RUNS: Final = 8
OBSERVE_SECONDS: Final = 60
# The cursor of dirty_hours_sensor: what the last tick did about metrics that were out of date.
POSTPONED: Final = "postponed"
REQUESTED: Final = "requested"
RANGE_START_TAG: Final = "dagster/asset_partition_range_start"
RANGE_END_TAG: Final = "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class _StreamingRuns:
    """The streaming runs.

    Attributes:
        active: runs that stream or are about to.
        starting_seconds: how long the longest-waiting active run has been without a session; None if all have one.
        missing: since when runs have been without a session, in seconds since 1970, by run id.
        failures: number of latest runs in a row that failed.
        since_failure: seconds since the last of these failures.
    """

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
    """The sensor's cursor. It only saves work: losing it does no harm."""

    observed: float = 0.0
    waiting: int = -1
    held: int = 0
    missing: dict[str, float] = field(default_factory=dict)
    # By Kafka partition: the last stable offset that holds back messages, and since when it has not moved.
    stuck: dict[str, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def load(cls, cursor: str | None) -> "_State":
        known = json.loads(cursor) if cursor else {}
        return cls(**{each.name: known[each.name] for each in fields(cls) if each.name in known})

    def dump(self) -> str:
        return json.dumps(asdict(self))

    def wants_observation(self, waiting: int, held: int, now: float) -> bool:
        """Return whether to report the lag: once a minute, and when it starts or ends."""
        changed = (waiting == 0) != (self.waiting == 0) or (held == 0) != (self.held == 0)
        due = now - self.observed >= OBSERVE_SECONDS and not waiting == self.waiting == held == self.held == 0
        return changed or due

    def stuck_at(self, backlog: "Backlog", now: float) -> dict[str, tuple[int, float]]:
        """Return what is held back and since when. The time is kept as long as the transaction is the same."""
        ends = {str(partition): backlog.ends[partition] for partition, count in backlog.held.items() if count}
        known = {partition: since for partition, (end, since) in self.stuck.items() if end == ends.get(partition)}
        return {partition: (end, known.get(partition, now)) for partition, end in ends.items()}


@dg.sensor(
    job=prediction_stream_job,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Compares the events topic with the ledger and launches a streaming run if there is a lag. "
    "Its skip reason reports the lag.",
)
def customer_events_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, kafka: KafkaResource
) -> dg.SensorResult | dg.SkipReason:
    """Request a streaming run if there is a lag and none is active, and a standby while events arrive."""
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
            standby=settings().standby,
            batch_seconds=config.batch_seconds,
        )
        # Reading the published offsets takes half a second. If a run is about to start, leave it to the next tick.
        if not decision.launch and state.wants_observation(backlog.waiting, held, now):
            events += _observations(backlog, kafka.published(backlog.topic))
            state = replace(state, observed=now, waiting=backlog.waiting, held=held)
        cursor = replace(state, missing=runs.missing, stuck=stuck).dump()
        if not decision.launch:
            return dg.SensorResult(skip_reason=decision.reason, asset_events=events, cursor=cursor)
        if batch is not None and not runs.active:
            key = batch.batch  # its run died; resume it, so that it is published completely and closed
        else:
            # Reuse a key that an earlier tick planned and no run opened: a tick that died leaves nothing behind.
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
    """Mark runs whose process is gone as failed, and return the streaming runs that remain.

    A run whose code server died with it stays STARTED forever and would stall the stream. A run of another job would
    stall that job's figures and occupy a place in the queue.

    Args:
        instance: the Dagster instance.
        connection: to the platform's database.
        missing: since when runs have been without a session in PostgreSQL, in seconds since 1970, by run id.
        now: seconds since 1970.
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
    # A run whose batch is closed is explaining or replaying it. It is alive, but does not stream.
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
    """Return whether this run has a session while it is alive, or is still starting. Some never have a session."""
    return run.status in STARTING or SESSION_TAG in run.tags or STREAM_TAG in run.tags


def _key(run: dg.DagsterRun) -> str | None:
    """Return the batch key of a streaming run."""
    return run.tags.get("dagster/partition")


def _fail_if_dead(
    instance: dg.DagsterInstance, connection: "psycopg.Connection", run: dg.DagsterRun, absent_seconds: float
) -> bool:
    """Mark a run without a session as failed if it is dead. Return whether it was.

    A streaming run that once had a session is dead without one, because it does not report results without confirming
    its session first. For any other run, and for one that is still starting, ask the launcher whether it has a process.
    """
    from churn_platform.database import ledger

    if absent_seconds <= DEAD_SECONDS:
        return False
    reason = f"PostgreSQL has had no session of this run for {absent_seconds:.0f} s."
    if SESSION_TAG not in run.tags or STREAM_TAG not in run.tags:
        if run.status == dg.DagsterRunStatus.NOT_STARTED:
            worker, patience = None, UNSUBMITTED_SECONDS
            reason = f"It was not submitted within {absent_seconds:.0f} s."
        else:
            worker = worker_of(instance, run)
            only_the_launcher_knows = run.status in STARTING or STREAM_TAG not in run.tags
            patience = UNKNOWN_SECONDS if worker is Worker.UNKNOWN and only_the_launcher_knows else DEAD_SECONDS
            reason += f" The run launcher reports its process as {worker.name.lower()}."
        if worker is Worker.ALIVE or absent_seconds <= patience:
            return False
    with ledger.dead_run(connection, run.run_id) as is_dead:
        latest = instance.get_run_by_id(run.run_id)
        if not is_dead or latest is None or latest.status != run.status:
            return False
        instance.report_run_failed(run, f"Its process is gone. {reason}")
    return True


def _unreported(instance: dg.DagsterInstance, connection: "psycopg.Connection") -> "list[ledger.Batch]":
    """Return closed batches that have no materialization in Dagster and no live run that will report one.

    A batch counts as reported only once its materialization is found in Dagster. So if a tick dies before its events
    are stored, the next one reports them.
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
    """Return the lags of both topics: offsets that are not scored yet, and scored ones that are not published yet."""
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
    """Return the lag of one stage of the stream, in offsets of the events topic, by Kafka partition.

    Args:
        asset: the topic's asset.
        reached: position of the stage.
        ends: position that it should reach.
        held: offsets after the ends, which are held back by an open transaction.
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
    """Request the metrics that are out of date. The sensor is level-triggered, so a failed run is requested again.

    A starting process uses a core for seconds. If another one is starting, metrics wait for the next tick, once: two
    starting processes on two cores would leave none for the stream.
    """
    from churn_platform.database import metrics

    with postgres.connect("churn sensor") as connection:
        hours = metrics.dirty_hours(connection, at_most_every=settings().metrics_seconds)
        days = metrics.dirty_days(connection, at_most_every=settings().metrics_seconds)
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
            return dg.SkipReason(f"{len(hours)} hours and {len(days)} days are out of date; runs are in progress.")
        return dg.SkipReason("Every hour and day is up to date.")
    if another_starts and context.cursor != POSTPONED:
        return dg.SensorResult(
            skip_reason=f"{len(hours)} hours and {len(days)} days are out of date. Another run is starting, so "
            f"they wait for the next tick.",
            cursor=POSTPONED,
        )
    return dg.SensorResult(run_requests=requests, cursor=REQUESTED)


def is_another_starting(instance: dg.DagsterInstance, connection: "psycopg.Connection") -> bool:
    """Return whether a run's process is starting, or a standby's is about to start."""
    from churn_platform.database import ledger

    batch = ledger.open_batch(connection)
    opened = _age(batch.opened if batch else None, time.time())
    if settings().standby and opened is not None and opened < STANDBY_SECONDS:
        return True
    since = datetime.now(UTC) - timedelta(seconds=BUSY_STARTING_SECONDS)
    return instance.get_runs_count(dg.RunsFilter(statuses=list(STARTING), created_after=since)) > 0


def is_active(instance: dg.DagsterInstance, job_name: str) -> bool:
    """Return whether a run of the job is queued, starting or running."""
    return instance.get_runs_count(dg.RunsFilter(job_name=job_name, statuses=list(ACTIVE))) > 0


def window_request(job_name: str, first: str, last: str) -> dg.RunRequest:
    """Return the request of one run for all partitions from the first to the last key."""
    if first == last:
        return dg.RunRequest(job_name=job_name, partition_key=first)
    return dg.RunRequest(job_name=job_name, tags={RANGE_START_TAG: first, RANGE_END_TAG: last})
