"""A stream under test: it sends events, runs batches, and reads what was written and published."""

import gc
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, LiteralString, Self

import psycopg
import pytest
import uuid_utils
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from churn_platform.database import advisory_locks, model_versions, stream_batches, stream_layouts
from churn_platform.environments import created_topics
from churn_platform.kafka import clients, topics
from churn_platform.kafka.reading import read_all
from churn_platform.lanes import WHOLE, Lane, lanes
from churn_platform.orchestration.partitions import batch_key
from churn_platform.positions import backlog
from churn_platform.settings import settings
from churn_platform.stream import faults, runs
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.external_scoring import ScoringEngine
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.limits import DEFAULT_LIMITS, Limits
from churn_platform.stream.run_session import RunSession
from churn_platform_tests.bank import CUSTOMER
from churn_platform_tests.waiting import wait_until


def event(number: int = 0, **changes: object) -> dict[str, object]:
    """Return a valid event; `number` varies the customer."""
    return {
        **CUSTOMER,
        "CustomerId": 15_600_000 + number,
        "Age": 20 + number % 60,
        "Geography": ("France", "Germany", "Spain")[number % 3],
        "event_id": str(uuid_utils.uuid7()),
        "event_timestamp": datetime.now(UTC).isoformat(),
        **changes,
    }


class Killed(Exception):  # noqa: N818  it represents the end of a process, not an error
    """Raised at a fault point."""


def with_changes(
    config: StreamConfig, *, group: str | None = None, client: Mapping[str, str] | None = None, **changes: Any
) -> StreamConfig:
    """Return this configuration with another group, other settings of the Kafka clients, or other fields."""
    kafka = replace(config.kafka, group=group or config.kafka.group, client={**config.kafka.client, **(client or {})})
    return replace(config, kafka=kafka, **changes)


def admin_client(settings: Mapping[str, clients.Setting]) -> AdminClient:
    """Return the admin client of these settings. Tests share it, because each new one waits for its connections."""
    return _admin_client(tuple(sorted(settings.items())))


@cache
def _admin_client(settings: tuple[tuple[str, clients.Setting], ...]) -> AdminClient:
    return AdminClient(dict(settings))


@dataclass
class Stream:
    """One stream on the real servers. As a context manager it closes its connection.

    Its runs have these limits, publish with a producer that `make_producer` creates, and replay with `engine`.
    """

    config: StreamConfig
    limits: Limits = DEFAULT_LIMITS
    make_producer: clients.ProducerFactory = clients.producer
    engine: ScoringEngine | None = None
    connection: psycopg.Connection = field(init=False)
    admin: AdminClient = field(init=False)
    log: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)  # runs whose end was recorded

    def __enter__(self) -> Self:
        self.connection = psycopg.connect(self.config.dsn, autocommit=True)
        self.admin = admin_client(self.config.kafka.client)
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, values: Sequence[Mapping[str, object] | bytes | None], *, partition: int | None = None) -> None:
        """Send events, spread over the partitions, and wait until Kafka has them."""
        # 0: without a limit, because a test may send a backlog of a million.
        producer = Producer({**self.config.kafka.client, "acks": "all", "queue.buffering.max.messages": 0})
        for number, value in enumerate(values):
            payload = json.dumps(value).encode() if isinstance(value, Mapping) else value
            producer.produce(
                self.config.events_topic, payload, partition=number % 3 if partition is None else partition
            )
        assert producer.flush(120) == 0

    def plan(self, lane: Lane = WHOLE) -> str:
        """Plan a batch and return its key."""
        key = batch_key(datetime.now(UTC), lane)
        stream_batches.plan_batch(self.connection, key, lane)
        return key

    def want_lanes(self, count: int) -> list[Lane]:
        """Record that so many lanes are wanted, as the sensor does, and return them."""
        layout = stream_layouts.layout(self.connection, self.config.events_topic)
        assert stream_layouts.want(self.connection, self.config.events_topic, count, seen=layout)
        return lanes(count)

    def materialize(self, *keys: str, **changes: Any) -> runs.Outcome:
        """Run these batches in this thread until they end."""
        run_id = f"run of {keys[0]}"
        gc.freeze()  # as runs do after their imports: each collects garbage, which takes 0.4 s among all these modules
        session = RunSession(self.config.dsn, run_id, has_ended=lambda: run_id in self.ended)
        session.open()
        try:
            return runs.materialize(
                with_changes(self.config, **changes),
                keys,
                run_id=run_id,
                log=self.log.append,
                confirm=session.confirm,
                limits=self.limits,
                make_producer=self.make_producer,
                engine=self.engine,
            )
        finally:
            session.close()

    def stream(self, **changes: Any) -> stream_batches.Batch:
        """Stream the backlog into a new batch."""
        key = self.plan()
        self.materialize(key, **changes)
        return self.batch(key)

    @contextmanager
    def standby(self, key: str) -> Iterator[threading.Thread]:
        """Keep a warm run waiting for the lock until the block ends."""
        with psycopg.connect(self.config.dsn, autocommit=True) as holder:
            advisory_locks.lock_stream(holder, self.config.events_topic)
            thread = self.start(key)
            wait_until(lambda: advisory_locks.lock_sessions(self.connection, self.config.events_topic)[1])
            yield thread

    def start(self, key: str, **changes: Any) -> threading.Thread:
        """Run this batch in a thread."""
        thread = threading.Thread(target=self.materialize, args=(key,), kwargs=changes)
        thread.start()
        return thread

    @contextmanager
    def in_thread(self, work: Callable[[], object]) -> Iterator[threading.Thread]:
        """Call a function in a thread, and wait for it at the end of the block."""
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield thread
        finally:
            thread.join()

    def commit_and_die(self, key: str, events: Sequence[Mapping[str, object]]) -> None:
        """Let a run commit these events to PostgreSQL and die before it publishes them."""

        def kill(point: FaultPoint) -> None:
            if point is FaultPoint.AFTER_DATABASE_COMMIT:
                raise Killed(point)

        self.send(events)
        with faults.installed(kill), pytest.raises(Killed):
            self.materialize(key, linger=1.0)  # long enough for all of them to be in that one commit
        wait_until(lambda: not advisory_locks.streaming_sessions(self.connection))

    def add_partition(self) -> None:
        """Add a fourth partition to the events topic, and wait until the brokers know it."""
        topic = self.config.events_topic
        for future in self.admin.create_partitions([NewPartitions(topic, 4)]).values():
            future.result()
        wait_until(lambda: len(topics.describe(self.admin, topic).partitions) == 4)

    def recreate_topic(self) -> None:
        """Delete the events topic and create another of the same name."""
        for future in self.admin.delete_topics([self.config.events_topic]).values():
            future.result()
        wait_until(lambda: self.config.events_topic not in self.admin.list_topics(timeout=10).topics)
        created_topics.create_missing(self.admin, self.config)

    def batch(self, key: str) -> stream_batches.Batch:
        """Return a batch of the ledger."""
        batch = stream_batches.find_batch(self.connection, key)
        assert batch is not None
        return batch

    def waiting(self) -> int:
        """Return the number of waiting offsets."""
        return backlog.load_backlog(self.connection, self.admin, self.config).waiting

    def rows(self, query: LiteralString) -> list[tuple[object, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(query).fetchall()

    def value(self, query: LiteralString) -> object:
        """Return the only value of a query."""
        return self.rows(query)[0][0]

    def table_ids(self) -> list[str]:
        """Return the event ids in churn_predictions, in order."""
        return sorted(str(event_id) for (event_id,) in self.rows("select event_id from churn_predictions"))

    def reread(self) -> list[Message]:
        """Return what a read_committed reader finds in the events topic now."""
        return list(read_all(self.config.kafka, self.config.events_topic))

    def published(self) -> list[dict[str, object]]:
        """Return what a read_committed reader finds in the predictions topic."""
        return [
            json.loads(message.value() or b"") for message in read_all(self.config.kafka, self.config.predictions_topic)
        ]

    def published_ids(self) -> list[str]:
        """Return the event ids in the predictions topic, in order."""
        return sorted(str(prediction["event_id"]) for prediction in self.published())


_number = itertools.count(1)


def new_stream(database: str, bundle_uri: str, **changes: Any) -> Stream:
    """Create a stream in this database, with a champion and empty topics of three partitions.

    Args:
        database: connection string.
        bundle_uri: the champion's bundle.
        changes: fields of its configuration to change.
    """
    number = next(_number)
    base = StreamConfig.from_settings(settings())
    config = replace(
        base,
        dsn=database,
        events_topic=f"events-{number}",
        predictions_topic=f"predictions-{number}",
        kafka=replace(base.kafka, group=f"group-{number}", retention=timedelta(days=14)),
        idle_seconds=0.5,
        linger=0.005,
        publish_interval=0.0,
    )
    config = with_changes(config, **changes)
    created_topics.create_missing(admin_client(config.kafka.client), config)
    register_champion(config.dsn, bundle_uri)
    return Stream(config)


def register_champion(dsn: str, bundle_uri: str) -> None:
    """Make this bundle the champion of a database."""
    with psycopg.connect(dsn) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
