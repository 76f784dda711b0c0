"""The status of the stream: lag, live run, latest batch, rate, dead letters. Nothing is changed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import psycopg
from confluent_kafka import KafkaException

from churn_platform.database import (
    advisory_locks,
    challengers,
    dead_letter_events,
    model_versions,
    recovered_predictions,
    stream_batches,
    stream_layouts,
    stream_pauses,
    stream_positions,
    summary_state,
)
from churn_platform.database.connections import connect
from churn_platform.database.dead_letter_events import DeadLetterCounts
from churn_platform.database.stream_batches import LatestBatch
from churn_platform.database.stream_positions import Position
from churn_platform.environments.environment_guard import EnvironmentGuard
from churn_platform.environments.exceptions import LedgerBehindError
from churn_platform.environments.published_offsets import attributed_offsets, make_offsets_consumer, require_not_ahead
from churn_platform.errors import PlatformError
from churn_platform.kafka import clients, topics
from churn_platform.kafka.clients import translate_kafka_errors
from churn_platform.kafka.exceptions import RangeLostError, TopicMissingError
from churn_platform.kafka.reading import first_times, make_consumer
from churn_platform.lanes import Lane, LanesError, lanes, require_lanes
from churn_platform.positions.truncation import resume
from churn_platform.stream.config import StreamConfig

# How long to wait for a server that does not answer.
ANSWER_SECONDS: Final = 5
# A transaction that is open for longer than this is reported: it is the default timeout of Kafka's producers.
LONG_OPEN_SECONDS: Final = 60
# The rate is the increase of the ledger's count over this time.
SAMPLE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class PartitionStatus:
    """One Kafka partition, in offsets. `position` is None if nothing was read yet, `unpublished` if unknown.

    `held` counts the offsets after `end`, where a transaction of another producer is open. `held_since` is when
    it began; None if nothing is held or its first message has no time.
    """

    kafka_partition: int
    position: int | None
    end: int
    waiting: int | None
    unpublished: int | None
    held: int = 0
    held_since: datetime | None = None


@dataclass(frozen=True)
class LaneStatus:
    """One lane: Dagster's run ids of the live run and the standbys, and the batch that was opened last."""

    lane: int
    live_run: str | None
    standbys: list[str]
    latest_batch: LatestBatch | None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model version that is tried on the stream now.

    Attributes:
        kind: shadow or canary.
        model_version: that is tried.
        share: of the customers, 0..1.
        started_at: when it was started.
        events: that it has scored, as far as the worker has followed the stream.
    """

    kind: challengers.Kind
    model_version: int
    share: float
    started_at: datetime
    events: int


@dataclass(kw_only=True)
class StreamStatus:
    """The status, as far as the servers answer. Unknown values are None or empty, and `problems` gives the reason.

    `lanes` are those in effect; `wanted_lanes` is another number only while the number changes. `live_run` and
    `standbys` are Dagster's run ids, those of all lanes together: the first live run, and all standbys. `latest_batch`
    is the batch that was opened last in any lane. `lock_holder` names a session that holds the lock but is not a run.
    `summaries_as_of` is the time that the summary tables show; None while they are computed.
    """

    topic: str | None = None
    partitions: list[PartitionStatus] = field(default_factory=list)
    lanes: list[LaneStatus] = field(default_factory=list)
    wanted_lanes: int | None = None
    live_run: str | None = None
    lock_holder: str | None = None
    standbys: list[str] = field(default_factory=list)
    latest_batch: LatestBatch | None = None
    events_per_second: float | None = None
    dead_letters: DeadLetterCounts | None = None
    model_version: int | None = None
    trials: list[Trial] = field(default_factory=list)
    paused_since: datetime | None = None
    summaries_as_of: datetime | None = None
    problems: list[str] = field(default_factory=list)
    answered: bool = True

    @property
    def held(self) -> int:
        """Offsets held back by open transactions, in all partitions."""
        return sum(each.held for each in self.partitions)

    @property
    def held_since(self) -> datetime | None:
        """Start of the oldest of these transactions."""
        return min((each.held_since for each in self.partitions if each.held_since is not None), default=None)

    @property
    def waiting(self) -> int | None:
        """The lag in all partitions that are read."""
        known = [each.waiting for each in self.partitions if each.waiting is not None]
        return sum(known) if known else None

    def waiting_of(self, lane: int) -> int | None:
        """Return the lag in the partitions of a lane that are read."""
        owner = Lane(len(self.lanes), lane)
        known = [
            each.waiting for each in self.partitions if each.waiting is not None and owner.owns(each.kafka_partition)
        ]
        return sum(known) if known else None

    @property
    def unpublished(self) -> int | None:
        """Offsets that are read and not yet published; None if a partition's number is unknown."""
        each = [partition.unpublished for partition in self.partitions]
        return sum(count or 0 for count in each) if each and None not in each else None

    def as_dict(self) -> dict[str, object]:
        """Return the status for JSON, with times in ISO 8601, UTC."""
        plain = {**asdict(self), "waiting": self.waiting, "unpublished": self.unpublished, "held": self.held}
        plain["held_since"] = _iso(self.held_since)
        plain["partitions"] = [{**asdict(each), "held_since": _iso(each.held_since)} for each in self.partitions]
        plain["trials"] = [{**asdict(each), "started_at": _iso(each.started_at)} for each in self.trials]
        plain["paused_since"] = _iso(self.paused_since)
        plain["summaries_as_of"] = _iso(self.summaries_as_of)
        plain["latest_batch"] = _batch_dict(self.latest_batch)
        plain["lanes"] = [
            {**asdict(each), "latest_batch": _batch_dict(each.latest_batch), "waiting": self.waiting_of(each.lane)}
            for each in self.lanes
        ]
        return plain


@dataclass(frozen=True)
class _LedgerPositions:
    """The positions, and how far predictions had been published before restores, by topic id and Kafka partition."""

    positions: Mapping[str, Mapping[int, Position]]
    recovered: Mapping[str, Mapping[int, int]]


def collect_status(config: StreamConfig) -> StreamStatus:
    """Return the status of the stream now. A server that does not answer is a problem in the status, not an error."""
    status = StreamStatus(topic=config.events_topic)
    ledger = _LedgerPositions({}, {})
    try:
        with connect(
            config.dsn, autocommit=True, connect_timeout=ANSWER_SECONDS, application_name="churn status"
        ) as connection:
            ledger = _collect_ledger_status(connection, config, status)
    except psycopg.errors.UndefinedTable:
        status.problems.append("The database has no schema of this version: run 'churn db upgrade'.")
    except psycopg.OperationalError as error:
        status.answered = False
        status.problems.append(f"PostgreSQL does not answer: {str(error).strip()}")
    except psycopg.Error as error:
        status.answered = False
        status.problems.append(f"PostgreSQL refuses the login of DATABASE_URL: {str(error).strip()}")
    try:
        _collect_kafka_status(config, ledger, status)
        _collect_claims(config, status)
    except TopicMissingError as error:
        status.problems.append(str(error))
    except PlatformError as error:
        status.answered = False
        status.problems.append(str(error))
    except KafkaException as error:
        status.answered = False
        status.problems.append(f"Kafka at {config.kafka.client.get('bootstrap.servers')}: {error.args[0].str()}")
    return status


def _collect_ledger_status(
    connection: psycopg.Connection, config: StreamConfig, status: StreamStatus
) -> _LedgerPositions:
    """Add what the ledger knows; return the positions."""
    topic = config.events_topic
    first, counted_at = stream_batches.count_events(connection)
    sampled = time.monotonic()
    layout = stream_layouts.layout(connection, topic)
    status.wanted_lanes = layout.wanted
    status.lanes = [
        LaneStatus(
            lane=lane.number,
            live_run=next(iter(_run_ids([sessions.holder or ""])), None),
            standbys=_run_ids(sessions.waiting),
            latest_batch=stream_batches.latest_batch(connection, lane),
        )
        for lane, sessions in zip(
            lanes(layout.lanes), advisory_locks.lane_sessions(connection, topic, layout.lanes), strict=True
        )
    ]
    status.live_run = next((each.live_run for each in status.lanes if each.live_run is not None), None)
    status.standbys = [run_id for each in status.lanes for run_id in each.standbys]
    if status.live_run is None:
        status.lock_holder, _ = advisory_locks.lock_sessions(connection, topic)
    status.latest_batch = stream_batches.latest_batch(connection)
    status.dead_letters = dead_letter_events.count(connection)
    champion = model_versions.champion(connection)
    status.model_version = None if champion is None else champion.version
    if champion is None:
        status.problems.append("No champion model yet: materialize champion_model. Until then nothing is scored.")
    status.trials = [
        Trial(
            kind=each.kind,
            model_version=each.model_version,
            share=each.share,
            started_at=each.started_at,
            events=each.events,
        )
        for each in challengers.all_active(connection)
    ]
    status.paused_since = stream_pauses.paused_since(connection, topic)
    status.summaries_as_of = summary_state.as_of(connection)
    positions: dict[str, dict[int, Position]] = {}
    for position in stream_positions.positions(connection, topic=topic):
        positions.setdefault(position.topic_id, {})[position.kafka_partition] = position
    recovered = {topic_id: recovered_predictions.reached(connection, topic_id) for topic_id in positions}
    if status.live_run is None:
        status.events_per_second = 0.0  # only a live run reads events
        return _LedgerPositions(positions, recovered)
    time.sleep(max(0.0, SAMPLE_SECONDS - (time.monotonic() - sampled)))
    second, counted_again_at = stream_batches.count_events(connection)
    status.events_per_second = (second - first) / (counted_again_at - counted_at).total_seconds()
    return _LedgerPositions(positions, recovered)


def _collect_kafka_status(config: StreamConfig, ledger: _LedgerPositions, status: StreamStatus) -> None:
    """Add what Kafka knows."""
    # The status reports problems itself, so librdkafka logs nothing.
    quiet = replace(config, kafka=replace(config.kafka, client={**config.kafka.client, "log_level": 0}))
    admin = clients.admin(quiet.kafka.client)
    with translate_kafka_errors(admin):
        admin.list_topics(timeout=ANSWER_SECONDS)
    topic = topics.describe(admin, config.events_topic)
    try:
        require_lanes(config.lanes, topic=topic.name, partitions=len(topic.partitions))
    except LanesError as error:  # the sensor launches no run
        status.problems.append(str(error))
    ends, held = topics.stable_ends(admin, topic)
    known = ledger.positions.get(topic.topic_id, {})
    since: dict[int, datetime] = {}
    published: dict[int, int] = {}

    def fill_in() -> None:
        status.partitions = [
            replace(
                _partition(number, end, known.get(number), published.get(number)),
                held=held[number],
                held_since=since.get(number),
            )
            for number, end in sorted(ends.items())
        ]

    fill_in()
    offsets = {number: where.next_offset for number, where in known.items()}
    consumer, offsets_consumer = make_consumer(quiet.kafka), make_offsets_consumer(quiet.kafka)
    try:
        if status.held:
            since = first_times(quiet.kafka, topic, {number: ends[number] for number, count in held.items() if count})
            fill_in()
            _report_held(topic.name, status)
        if known:
            records = {number: where.last_record for number, where in known.items() if where.last_record}
            resume(consumer, topic.name, offsets, records)
    except RangeLostError as error:
        status.problems.append(str(error))
    try:
        if known:
            found = attributed_offsets(offsets_consumer, topic, seconds=ANSWER_SECONDS)
            published = {number: each.offset for number, each in found.items()}
            fill_in()
            require_not_ahead(topic.name, offsets, ledger.recovered.get(topic.topic_id, {}), found)
    except LedgerBehindError as error:
        status.problems.append(str(error))
    finally:
        consumer.close()
        offsets_consumer.close()


def _collect_claims(config: StreamConfig, status: StreamStatus) -> None:
    """Report topics, groups and databases that this environment would write to but another one has claimed."""
    try:
        with (
            connect(
                config.dsn, autocommit=True, connect_timeout=ANSWER_SECONDS, application_name="churn status"
            ) as connection,
            EnvironmentGuard(connection, clients.admin({**config.kafka.client, "log_level": 0}), config) as guard,
        ):
            status.problems += [conflict.problem for conflict in guard.conflicts()]
    except psycopg.Error:
        return  # already reported as a problem
    except PlatformError as error:
        status.problems.append(str(error))


def _report_held(topic: str, status: StreamStatus) -> None:
    """Report the partitions that a long transaction holds back."""
    now = datetime.now(UTC)
    for each in status.partitions:
        if each.held_since is None or (now - each.held_since).total_seconds() < LONG_OPEN_SECONDS:
            continue
        status.problems.append(
            f"{topic}[{each.kafka_partition}]: {each.held:,} offsets from {each.end} on are held back by a transaction "
            f"of another producer, open since {each.held_since:%Y-%m-%d %H:%M:%S} UTC. They are read once the "
            f"producer commits or aborts it. Kafka aborts it after the producer's transaction.timeout.ms. If it hangs, "
            f"end it with 'kafka-transactions.sh find-hanging' and 'abort'."
        )


def _partition(number: int, end: int, position: Position | None, published: int | None) -> PartitionStatus:
    if position is None:
        return PartitionStatus(number, None, end, None, None)
    if published is None and position.next_offset == position.first_offset:
        published = position.first_offset  # nothing was read, so there is nothing to publish
    return PartitionStatus(
        kafka_partition=number,
        position=position.next_offset,
        end=end,
        waiting=max(0, end - position.next_offset),
        unpublished=None if published is None else max(0, position.next_offset - published),
    )


def _run_ids(names: Sequence[str]) -> list[str]:
    """Return the ids of the runs among these sessions."""
    prefix = advisory_locks.SESSION_PREFIX
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _batch_dict(batch: LatestBatch | None) -> dict[str, object] | None:
    return None if batch is None else {**asdict(batch), "last_commit": _iso(batch.last_commit)}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
