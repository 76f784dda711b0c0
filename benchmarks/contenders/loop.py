"""The platform's own commit loop without Dagster: one streaming run in this process, all guarantees on."""

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import psycopg

from benchmarks.contenders.task import Task
from churn_platform.database import stream_batches
from churn_platform.lanes import Lane
from churn_platform.orchestration.partitions import batch_key
from churn_platform.settings import load_settings
from churn_platform.stream import runs
from churn_platform.stream.config import StreamConfig


def environment(task: Task) -> Mapping[str, str]:
    """Return the stream's settings for a task."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": task.brokers,
        "DATABASE_URL": task.dsn,
        "EVENTS_TOPIC": task.events_topic,
        "PREDICTIONS_TOPIC": task.predictions_topic,
        "STREAM_GROUP": task.group,
        "COMMIT_EVENTS": str(task.commit_events),
        "BATCH_SECONDS": "86400",  # a batch ends with its events, however slow the machine is
    }


def main() -> None:
    """Stream into one batch until the whole backlog of the lane is in it."""
    task = Task.from_arguments()
    os.environ.update(environment(task))
    config = replace(StreamConfig.from_settings(load_settings()), batch_events=task.events)
    lane = Lane(task.lanes, task.lane)
    key = batch_key(datetime.now(UTC), lane)
    with psycopg.connect(config.dsn, autocommit=True) as connection:
        stream_batches.plan_batch(connection, key, lane)
    runs.materialize(config, [key], run_id=f"benchmark {task.lane}", log=lambda _: None, confirm=lambda: None)


if __name__ == "__main__":
    main()
