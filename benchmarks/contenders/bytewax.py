"""Bytewax: one flat_map_batch scores and writes, and Bytewax's Kafka output publishes. Rows are idempotent.

Without a recovery store: it reads the topic from its beginning, and ends where the topic ends unless it follows it.
"""

from __future__ import annotations

import json

import bytewax.operators as op
import psycopg
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from benchmarks.contenders.rows import encoded, insert, now, row_of, score
from benchmarks.contenders.task import Task
from churn_platform.model_store import load_bundle


def flow_of(task: Task, connection: psycopg.Connection) -> Dataflow:
    """Return the dataflow: it reads events, and writes rows and predictions."""
    bundle = load_bundle(task.bundle)

    def process(messages: list[KafkaSourceMessage]) -> list[KafkaSinkMessage]:
        events = [json.loads(message.value) for message in messages]
        scores, at = score(bundle, events), now()
        insert(
            connection,
            [
                row_of(event, scored, message.partition or 0, message.offset or 0, at)
                for message, event, scored in zip(messages, events, scores, strict=True)
            ],
        )
        return [
            KafkaSinkMessage(str(event["CustomerId"]).encode(), encoded(event, scored, at))
            for event, scored in zip(events, scores, strict=True)
        ]

    flow = Dataflow("churn")
    source = KafkaSource(
        [task.brokers],
        [task.events_topic],
        tail=task.follow,
        batch_size=task.commit_events,
        add_config={"isolation.level": "read_committed", "fetch.queue.backoff.ms": "2"},
    )
    received = op.input("events", flow, source)
    predictions = op.flat_map_batch("score", received, process)
    kop.output(
        "predictions",
        predictions,
        brokers=[task.brokers],
        topic=task.predictions_topic,
        add_config={"compression.type": "lz4", "linger.ms": "5", "queue.buffering.max.messages": "1000000"},
    )
    return flow


def main() -> None:
    """Read until the topic ends, or follow it."""
    task = Task.from_arguments()
    with psycopg.connect(task.dsn, autocommit=True) as connection:
        run_main(flow_of(task, connection))


if __name__ == "__main__":
    main()
