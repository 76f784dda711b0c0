"""Quix Streams: a batching sink scores, writes and publishes at each checkpoint. At least once, rows idempotent."""

import json
from typing import Any

import psycopg
from confluent_kafka import Producer
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

from benchmarks.contenders.rows import encoded, insert, now, row_of, score
from benchmarks.contenders.task import Task
from churn_platform.model_store import load_bundle


class PredictionSink(BatchingSink):
    """Writes rows to PostgreSQL and predictions to Kafka, one batch of one partition at a time."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task
        self._bundle = load_bundle(task.bundle)

    def setup(self) -> None:
        """Connect; called once, before the first batch."""
        self._connection = psycopg.connect(self._task.dsn, autocommit=True)
        self._producer = Producer(
            {
                "bootstrap.servers": self._task.brokers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def write(self, batch: SinkBatch) -> None:
        """Score a batch, write it, publish it."""
        items: list[tuple[dict[str, Any], int]] = [(item.value, item.offset) for item in batch]
        scores, at = score(self._bundle, [event for event, _ in items]), now()
        insert(
            self._connection,
            [
                row_of(event, scored, batch.partition, offset, at)
                for (event, offset), scored in zip(items, scores, strict=True)
            ],
        )
        for (event, _), scored in zip(items, scores, strict=True):
            self._producer.produce(self._task.predictions_topic, encoded(event, scored, at), str(event["CustomerId"]))
        self._producer.flush()


def main() -> None:
    """Read the backlog, or follow the topic."""
    task = Task.from_arguments()
    app = Application(
        broker_address=task.brokers,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        commit_every=task.commit_events,
        commit_interval=task.linger if task.follow else 60.0,
        consumer_poll_timeout=task.linger,  # the end of an interval is noticed only between two polls
        auto_create_topics=False,
        state_dir=task.folder,
        loglevel="WARNING",
    )
    # json.loads, as the others use; the library's JSON deserializer is no faster
    topic = app.topic(task.events_topic, value_deserializer="bytes")
    app.dataframe(topic).apply(json.loads).sink(PredictionSink(task))
    app.run(count=0 if task.follow else task.events)


if __name__ == "__main__":
    main()
