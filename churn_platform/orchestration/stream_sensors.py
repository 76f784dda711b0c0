"""The sensors of the stream: one compares offsets and launches streaming runs, one launches outdated metrics.

Neither consumes an event or sleeps.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg

from churn_platform.lanes import Lane, lanes, require_lanes
from churn_platform.orchestration.assets.batches import orphan_materialization
from churn_platform.orchestration.assets.predictions import EVENTS, PUBLISHED
from churn_platform.orchestration.assets.ui_metadata import rows_table
from churn_platform.orchestration.console_logger import CONFIG
from churn_platform.orchestration.jobs import daily_metrics_job, hourly_metrics_job, prediction_stream_job
from churn_platform.orchestration.partitions import batch_key, batches, day_key, hour_key
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.run_liveness import LANE_TAG, STREAM_TAG, LaneRuns, StreamingRuns, streaming_runs
from churn_platform.orchestration.run_requests import age_seconds, is_active, is_another_starting, window_request
from churn_platform.orchestration.spark import ENGINE_TAG, Engine
from churn_platform.settings import settings

if TYPE_CHECKING:  # the code server needs them when a tick runs, not when it starts
    import psycopg

    from churn_platform.database import stream_batches
    from churn_platform.database.stream_layouts import Layout
    from churn_platform.positions.backlog import Backlog
    from churn_platform.stream.config import StreamConfig
    from churn_platform.stream.launch_decision import Decision

# The daemon evaluates sensors every 5 s. With an interval of 5 s a sensor would run only every 10 s.
TICK_SECONDS: Final = 4
# Every third evaluation. It delays metrics by at most this long, and ticks are most of an idle stack's load.
METRICS_TICK_SECONDS: Final = 14
# The metrics of an hour that goes on change with each commit. To update them takes a run for the hours and one for the
# days, half a second of CPU time each. The summaries show the present (see worker/).
UPDATE_FACTOR: Final = 5
OBSERVE_SECONDS: Final = 60
# The cursor of dirty_hours_sensor: what the last tick did about outdated metrics.
POSTPONED: Final = "postponed"
REQUESTED: Final = "requested"


@dataclass(frozen=True)
class _State:
    """The cursor of customer_events_sensor: what it remembers between ticks. Losing it does no harm."""

    observed: float = 0.0
    waiting: int = -1
    held: int = 0
    missing: dict[str, float] = field(default_factory=dict)
    # By Kafka partition: the last stable offset with a transaction open behind it, and since when it has not moved.
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
        """Return where a transaction is open now, and since when."""
        ends = {str(partition): backlog.ends[partition] for partition, count in backlog.held.items() if count}
        known = {partition: since for partition, (end, since) in self.stuck.items() if end == ends.get(partition)}
        return {partition: (end, known.get(partition, now)) for partition, end in ends.items()}


@dg.sensor(
    job=prediction_stream_job,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Compares the events topic with the ledger. Keeps a streaming run ready for the next event, and a "
    "standby while a batch is open, in each lane. Its skip reason shows what it found.",
)
def customer_events_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, kafka: KafkaResource
) -> dg.SensorResult | dg.SkipReason:
    """Request a streaming run of each lane that has no live one, and a standby while its batch is open.

    Raises:
        LanesError: there are more lanes than partitions.
    """
    from churn_platform.database import environments, stream_batches
    from churn_platform.kafka.exceptions import TopicMissingError
    from churn_platform.positions.backlog import load_backlog

    config, now = kafka.stream(), time.time()
    kafka.claim()
    with postgres.connect("churn sensor") as connection:
        connection.autocommit = True
        environments.record_running(connection, config.environment)
        try:
            backlog = load_backlog(connection, kafka.admin(), config)
        except TopicMissingError as error:
            return dg.SkipReason(str(error))
        require_lanes(config.lanes, topic=backlog.topic.name, partitions=len(backlog.topic.partitions))
        layout = _layout(context, connection, config)
        state = _State.load(context.cursor)
        stuck, held = state.stuck_at(backlog, now), sum(backlog.held.values())
        runs = streaming_runs(
            context.instance,
            connection,
            state.missing,
            now,
            layout,
            start_timeout_seconds=settings().dagster.run_start_timeout_seconds,
        )
        events: list[dg.AssetMaterialization | dg.AssetObservation] = [
            orphan_materialization(batch, stream_batches.ranges_of(connection, batch.batch))
            for batch in _unreported(context.instance, connection)
        ]
        opened = {batch.reads: batch for batch in stream_batches.open_batches(connection)}
        decisions = _decide(connection, config, backlog, runs, opened, stuck, now)
        launched = [lane for lane, decision in decisions.items() if decision.launch]
        # Reading published offsets takes half a second. If a run has to start, the next tick does it.
        if not launched and state.wants_observation(backlog.waiting, held, now):
            events += _observations(backlog, kafka.published(backlog.topic))
            state = replace(state, observed=now, waiting=backlog.waiting, held=held)
        cursor = replace(state, missing=runs.missing, stuck=stuck).dump()
        keys = {lane: _plan(connection, lane, runs.lanes[lane], opened.get(lane)) for lane in launched}
    reason = _reason(decisions)
    if not keys:
        return dg.SensorResult(skip_reason=reason, asset_events=events, cursor=cursor)
    context.log.info(reason)
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                partition_key=key,
                run_config=CONFIG,
                tags={
                    STREAM_TAG: "live",
                    "churn/topic": config.events_topic,
                    LANE_TAG: str(lane.number),
                    "dagster/priority": "10",
                    **({ENGINE_TAG: Engine.spark.name} if _wants_spark(backlog, lane, runs.lanes[lane]) else {}),
                },
            )
            for lane, key in keys.items()
        ],
        dynamic_partitions_requests=[batches.build_add_request(list(keys.values()))],
        asset_events=events,
        cursor=cursor,
    )


def _layout(context: dg.SensorEvaluationContext, connection: "psycopg.Connection", config: "StreamConfig") -> "Layout":
    """Return the layout of the events topic, after recording that as many lanes are wanted as the settings say."""
    from churn_platform.database import stream_layouts

    layout = stream_layouts.layout(connection, config.events_topic)
    if layout.wanted == config.lanes:
        return layout
    stream_layouts.want(connection, config.events_topic, config.lanes, seen=layout)
    context.log.info(
        f"LANES is {config.lanes}, {layout.wanted} before. Live runs end after their current commit; those of the new "
        f"lanes continue."
    )
    return replace(layout, wanted=config.lanes)


def _decide(
    connection: "psycopg.Connection",
    config: "StreamConfig",
    backlog: "Backlog",
    runs: StreamingRuns,
    opened: "Mapping[Lane, stream_batches.Batch]",
    stuck: Mapping[str, tuple[int, float]],
    now: float,
) -> "dict[Lane, Decision]":
    """Return for each lane whether a run is launched.

    Args:
        connection: to the ledger.
        config: of the stream.
        backlog: of the events topic.
        runs: the streaming runs of each lane.
        opened: the open batches.
        stuck: by Kafka partition: where a transaction is open, and since when.
        now: seconds since 1970.
    """
    from churn_platform.database import model_versions, stream_pauses, stream_positions
    from churn_platform.stream.launch_decision import Observed, decide

    has_champion = model_versions.champion(connection) is not None
    paused_since = stream_pauses.paused_since(connection, config.events_topic)
    decisions = {}
    for lane in lanes(config.lanes):
        own, batch = runs.lanes[lane], opened.get(lane)
        since = [moment for partition, (_, moment) in stuck.items() if lane.owns(int(partition))]
        observed = Observed(
            waiting=sum(lane.select(backlog.lag).values()),
            held=sum(lane.select(backlog.held).values()),
            held_seconds=max((now - moment for moment in since), default=0.0),
            unpublished=stream_positions.has_unpublished(connection, config.events_topic, lane),
            active_runs=len(own.active),
            starting_seconds=own.starting_seconds,
            has_champion=has_champion,
            paused_since=paused_since,
            batch_open_seconds=age_seconds(batch.opened if batch else None, now),
            last_commit_seconds=age_seconds(batch.last_commit if batch else None, now),
            failures=own.failures,
            since_failure=own.since_failure,
        )
        decisions[lane] = decide(
            observed,
            ready=math.isinf(config.idle_seconds),
            standby=settings().stream.standby,
            batch_seconds=config.batch_seconds,
            lead_seconds=settings().dagster.run_start_seconds,
        )
    return decisions


def _plan(connection: "psycopg.Connection", lane: Lane, runs: LaneRuns, opened: "stream_batches.Batch | None") -> str:
    """Return the key of the batch that the next run of a lane streams into, after registering it in the ledger.

    Args:
        connection: to the ledger.
        lane: of the run.
        runs: of the lane.
        opened: the lane's open batch.
    """
    from churn_platform.database import stream_batches

    if opened is not None and not runs.active:
        # Its run died. The next run resumes the batch, publishes the rest and closes it, even without new events.
        key = opened.batch
    else:
        # A planned key that no run has opened is used again, so that a tick that died leaves no unused key.
        key = stream_batches.oldest_unopened(connection, lane=lane, excluding=runs.keys) or batch_key(
            datetime.now(UTC), lane
        )
    stream_batches.plan_batch(connection, key, lane)
    return key


def _wants_spark(backlog: "Backlog", lane: Lane, runs: LaneRuns) -> bool:
    """Return whether Spark scores the backlog of a lane.

    After a failure the stream reads it itself, so that a defect of Spark cannot stop it.
    """
    is_large = 0 < settings().spark.backlog_from <= sum(lane.select(backlog.lag).values())
    return is_large and not runs.active and not runs.failures


def _reason(decisions: "Mapping[Lane, Decision]") -> str:
    """Return the reasons of all lanes, for the tick's page."""
    if len(decisions) == 1:
        return next(iter(decisions.values())).reason
    return " ".join(f"Lane {lane.number}: {decision.reason}" for lane, decision in decisions.items())


def _unreported(instance: dg.DagsterInstance, connection: "psycopg.Connection") -> "list[stream_batches.Batch]":
    """Return closed batches without a materialization in Dagster that no live run will report.

    A batch counts as reported once Dagster holds its materialization, so that a tick that dies before its events are
    stored is repeated.
    """
    from churn_platform.database import stream_batches

    missing = []
    for batch in stream_batches.unreported_batches(connection):
        run = instance.get_run_by_id(batch.run_id) if batch.run_id else None
        if run is not None and not run.is_finished:
            continue
        known = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey("churn_predictions"), asset_partitions=[batch.batch]), limit=1
        )
        if known.records:
            stream_batches.mark_reported(connection, batch.batch)
        else:
            missing.append(batch)
    return missing


def _observations(backlog: "Backlog", published: Mapping[int, int]) -> list[dg.AssetObservation]:
    """Return the lag of both topics: offsets that are not scored yet, and scored ones that are not published yet."""
    published = {p: published.get(p, position) for p, position in backlog.positions.items()}
    return [
        _lag(dg.AssetKey(EVENTS), reached=backlog.positions, ends=backlog.ends, held=backlog.held),
        _lag(dg.AssetKey(PUBLISHED), reached=published, ends=backlog.positions),
    ]


def _lag(
    asset: dg.AssetKey,
    *,
    reached: Mapping[int, int],
    ends: Mapping[int, int],
    held: Mapping[int, int] | None = None,
) -> dg.AssetObservation:
    """Return the lag of a stage of the stream, in offsets of the events topic, by Kafka partition.

    Args:
        asset: the asset that has the lag.
        reached: the offsets that the stage has reached.
        ends: the offsets that the stage can reach.
        held: offsets behind the ends, which belong to a transaction that is still open.
    """
    lag = {partition: max(0, end - reached[partition]) for partition, end in ends.items()}
    rows = [{"kafka_partition": p, "reached": reached[p], "end": ends[p], "lag": lag[p]} for p in ends]
    metadata: dict[str, int] = {"lag": sum(lag.values())}
    if held is not None:
        metadata["behind_open_transactions"] = sum(held.values())
        rows = [{**row, "behind_open_transactions": held[row["kafka_partition"]]} for row in rows]
    return dg.AssetObservation(asset, metadata={**metadata, **rows_table("partitions", rows)})


@dg.sensor(
    jobs=[hourly_metrics_job, daily_metrics_job],
    minimum_interval_seconds=METRICS_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches hourly and daily metrics for hours and days that commits and replays have changed.",
)
def dirty_hours_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Request outdated metrics. It is level-triggered, so that metrics of a failed run are requested again.

    A starting process uses a core for seconds, and two of them on two cores would leave none for the stream. So if
    another process is starting, metrics wait for the next tick, but only once.
    """
    from churn_platform.database import metrics

    with postgres.connect("churn sensor") as connection:
        first_after = settings().metrics.refresh_seconds
        at_most_every = UPDATE_FACTOR * first_after
        hours = metrics.dirty_hours(connection, first_after=first_after, at_most_every=at_most_every)
        days = metrics.dirty_days(connection, at_most_every=at_most_every)
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
            return dg.SkipReason(
                f"{len(hours)} hours and {len(days)} days are out of date; their runs are in progress."
            )
        return dg.SkipReason("Every hour and day is up to date.")
    if another_starts and context.cursor != POSTPONED:
        return dg.SensorResult(
            skip_reason=f"{len(hours)} hours and {len(days)} days are out of date. Another run is starting; their "
            f"runs start at the next tick.",
            cursor=POSTPONED,
        )
    return dg.SensorResult(run_requests=requests, cursor=REQUESTED)
