"""The reference: a simple loop with confluent-kafka, pandas and psycopg, as an engineer would write it in an afternoon.

Rows are idempotent by event_id. A prediction reaches Kafka at least once: offsets are committed after the flush.
"""

import contextlib
import json
import signal
import sys

import psycopg
from confluent_kafka import Consumer, Producer

from benchmarks.contenders.rows import encoded, insert, now, row_of, score
from benchmarks.contenders.task import Task
from churn_platform.model_store import load_bundle


def main() -> None:
    """Read until the backlog is processed."""
    task = Task.from_arguments()
    bundle = load_bundle(task.bundle)
    consumer = Consumer(
        {
            "bootstrap.servers": task.brokers,
            "group.id": task.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "queued.min.messages": 100_000,
            "fetch.queue.backoff.ms": 2,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": task.brokers,
            "enable.idempotence": True,
            "linger.ms": 5,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the group is left at once
    consumer.subscribe([task.events_topic])
    done = 0
    with contextlib.closing(consumer), psycopg.connect(task.dsn, autocommit=True) as connection:
        while done < task.events:
            messages = [m for m in consumer.consume(task.commit_events, task.linger) if m.error() is None]
            if not messages:
                continue
            events = [json.loads(message.value() or b"") for message in messages]
            scores, at = score(bundle, events), now()
            rows = [
                row_of(event, scored, message.partition() or 0, message.offset() or 0, at)
                for message, event, scored in zip(messages, events, scores, strict=True)
            ]
            insert(connection, rows)
            for event, scored in zip(events, scores, strict=True):
                producer.produce(task.predictions_topic, encoded(event, scored, at), str(event["CustomerId"]))
            producer.flush()
            consumer.commit(asynchronous=False)
            done += len(messages)


if __name__ == "__main__":
    main()
