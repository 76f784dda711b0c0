"""Stages of a commit, each measured alone and compared with its minimum, to see what limits throughput.

Example: python -m benchmarks.stages --events 100000
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import psycopg
import typer
from confluent_kafka import Consumer, Message, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.machine import this_machine
from benchmarks.servers import own_stack
from churn_platform.database.bulk import copy_rows
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.decoding.events import event_decoder
from churn_platform.kafka import clients, topics
from churn_platform.kafka.reading import read_ranges
from churn_platform.kafka.topics import Topic
from churn_platform.lanes import WHOLE
from churn_platform.scoring.booster import predict
from churn_platform.settings import settings
from churn_platform.stream.commit_rows import Source, write_high_risk, write_rows
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.prediction_messages import messages_of
from churn_platform.stream.prediction_values import message_frame, prediction_rows
from churn_platform.stream.publisher import Publication, Publisher
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.scoring import Champion, load_champion, score

T = TypeVar("T")
TOPIC: Final = "stages"
EVENTS: Final = 200_000
COMMIT_EVENTS: Final = 10_000
BATCH: Final = "2026-01-01T00:00:00.000000Z"


@dataclass(frozen=True)
class Stage:
    """Events per second of a stage in the stream, and of its theoretical minimum of work."""

    name: str
    rate: float
    ceiling: float
    ceiling_is: str


class Stages:
    """Runs the stages one after the other, each with the output of the previous one."""

    def __init__(self, config: StreamConfig, events: int, commit_events: int) -> None:
        self._config = config
        self._count = events
        self._size = commit_events
        admin = clients.admin(config.kafka.client)
        self._topic: Topic = topics.describe(admin, TOPIC)
        self._ends = topics.list_offsets(admin, self._topic, topics.LATEST)
        self._connection = psycopg.connect(config.dsn, autocommit=True)
        self._champion: Champion = load_champion(self._connection)
        self._table = prediction_table(config.schema)

    def measure(self) -> list[Stage]:
        """Measure all stages."""
        now = datetime.now(UTC)
        window = {"accepts_from": self._config.epoch, "accepts_until": now + timedelta(hours=1)}
        decode = event_decoder(self._config.schema).decode
        read, messages = self._timed_once(self._read)
        consume, _ = self._timed_once(self._consume)
        chunks = [messages[start : start + self._size] for start in range(0, len(messages), self._size)]
        stages = [Stage("read", read, consume, "consume() by a client with the same settings")]

        decoded = [decode(chunk, topic_id=self._topic.topic_id, **window)[0] for chunk in chunks]
        stages.append(
            Stage(
                "decode",
                self._timed(lambda chunk: decode(chunk, topic_id=self._topic.topic_id, **window), chunks),
                self._timed(lambda chunk: [msgspec.json.decode(m.value() or b"") for m in chunk], chunks),
                "the same JSON into dicts, unchecked",
            )
        )
        transform = self._champion.bundle.transform
        matrices = [transform.transform(events.customers) for events in decoded]
        stages.append(
            Stage(
                "transform",
                self._timed(lambda events: transform.transform(events.customers), decoded),
                self._timed(lambda matrix: matrix.copy(order="F").copy(order="C"), matrices),
                "the finished matrix, copied by columns and back",
            )
        )
        booster = self._champion.bundle.booster
        scored = [score(events, self._champion, threads=1) for events in decoded]
        stages.append(
            Stage(
                "transform and score",
                self._timed(lambda events: score(events, self._champion, threads=1), decoded),
                self._timed(lambda matrix: predict(booster, matrix, threads=1), matrices),
                "XGBoost alone",
            )
        )
        stages.append(
            Stage(
                "write",
                self._timed(self._write, list(zip(scored, chunks, strict=True))),
                self._timed(self._copy, scored),
                "COPY into a table without an index",
            )
        )
        publish = self._published(scored)
        frames = [message_frame(self._table, BATCH, [each]) for each in scored]
        produce, _ = self._timed_once(lambda: self._produce(frames))
        stages.append(Stage("publish", publish, produce, "produce_batch() of ready bytes, no transaction"))
        return stages

    def _timed(self, stage: Callable[[Any], object], chunks: Sequence[Any]) -> float:
        """Return events per second: the median over commits."""
        seconds = []
        for chunk in chunks:
            began = time.perf_counter()
            stage(chunk)
            seconds.append(time.perf_counter() - began)
        return self._size / statistics.median(seconds)

    def _timed_once(self, stage: Callable[[], T]) -> tuple[float, T]:
        began = time.perf_counter()
        result = stage()
        return self._count / (time.perf_counter() - began), result

    def _read(self) -> list[Message]:
        ranges = {partition: (0, end) for partition, end in self._ends.items()}
        chunks = read_ranges(self._config.kafka, TOPIC, ranges, chunk=self._size)
        return [message for chunk in chunks for message in chunk]

    def _consume(self) -> None:
        consumer = Consumer(
            {
                **self._config.kafka.client,
                "group.id": "ceiling",
                "fetch.queue.backoff.ms": 2,
                "queued.min.messages": 100_000,
            }
        )
        consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in self._ends])
        left = self._count
        while left > 0:
            left -= len(consumer.consume(min(left, self._size), 1.0))
        consumer.close()

    def _write(self, work: tuple[Any, Sequence[Message]]) -> None:
        scored, chunk = work
        source = Source(batch=BATCH, topic=TOPIC, topic_id=self._topic.topic_id)
        threshold = self._config.high_risk_threshold
        with self._connection.transaction():
            rows = prediction_rows(self._table, source.batch, scored)
            written = write_rows(
                self._connection, source, self._config.schema, scored, rows, (), chunk,
                compare=False, high_risk_threshold=threshold, erased=0,
            )  # fmt: skip
            write_high_risk(self._connection, self._config.schema, written.predictions, threshold)

    def _copy(self, scored: Any) -> None:
        source = Source(batch=BATCH, topic=TOPIC, topic_id=self._topic.topic_id)
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute("create temp table if not exists bare (like churn_predictions including generated)")
            copy_rows(cursor, "bare", prediction_rows(self._table, source.batch, scored))

    def _published(self, scored: Sequence[Any]) -> float:
        """Return events per second from the second commit on. Before the first, the producer registers with Kafka."""
        run = RunContext(config=self._config, batch=BATCH, run_id="benchmark", log=lambda _: None, lane=WHOLE)
        publisher = Publisher(run, "benchmark")
        publisher.warm_up()
        publisher.begin(self._topic, dict.fromkeys(self._ends, 0), require_lock=lambda _: None)
        publisher.publish(Publication(BATCH, scored[0], {0: 1}))
        while not publisher.published:
            publisher.check()
            time.sleep(0.001)
        began = time.perf_counter()
        for number, each in enumerate(scored[1:], start=2):
            publisher.publish(Publication(BATCH, each, {0: number}))
        publisher.finish(lambda: None, every=60)
        return sum(map(len, scored[1:])) / (time.perf_counter() - began)

    def _produce(self, frames: Sequence[Any]) -> None:
        producer = clients.producer(
            {
                **self._config.kafka.client,
                "acks": "all",
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        for frame in frames:
            producer.produce_batch(f"{self._config.predictions_topic}-ceiling", messages_of(frame))
        producer.flush()


def measure(events: int = EVENTS, commit_events: int = COMMIT_EVENTS) -> list[Stage]:
    """Measure all stages on separate servers."""
    with own_stack() as stack:
        config = replace(StreamConfig.from_settings(settings()), events_topic=TOPIC)
        work.promote(config.dsn, work.trained_bundle(stack.local / "bundle"))
        for name in (TOPIC, f"{config.predictions_topic}-ceiling"):
            work.create_topic(name)
        work.fill(TOPIC, work.customers(), events)
        return Stages(config, events, commit_events).measure()


def show(console: Console, stages: Sequence[Stage]) -> None:
    """Print the results as a table."""
    table = Table(
        "stage", "events a second", "its ceiling", "share", "what the ceiling is", box=None, header_style="dim"
    )
    for stage in stages:
        share = stage.rate / stage.ceiling
        table.add_row(stage.name, f"{stage.rate:,.0f}", f"{stage.ceiling:,.0f}", f"{share:.0%}", stage.ceiling_is)
    console.print(table)


def main(
    events: Annotated[int, typer.Option(min=1, help="Events.")] = EVENTS,
    commit_events: Annotated[int, typer.Option(min=1, help="Events per commit.")] = COMMIT_EVENTS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure each stage of a commit alone.

    Example: make bench-stages ARGS="--events 100000"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    stages = measure(events, commit_events)
    show(console, stages)
    if json_file is not None:
        found = {"stages": [asdict(stage) for stage in stages], "machine": asdict(machine)}
        json_file.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
