"""A backlog that Spark scores into one batch, beside the commit loop on the same events and servers.

Example: python -m benchmarks.spark --events 1000000
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec
import typer
from psycopg import sql
from rich.console import Console

from benchmarks import work
from benchmarks.machine import this_machine
from benchmarks.servers import new_database, own_stack
from benchmarks.throughput import Contest
from churn_platform.database import stream_batches
from churn_platform.database.connections import connect
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.environments import created_topics
from churn_platform.kafka import clients
from churn_platform.kafka.reading import read_all
from churn_platform.schema.current import schema_of
from churn_platform.settings import settings
from churn_platform.spark.engine import spark_engine
from churn_platform.spark.submit import SparkConfig
from churn_platform.stream import runs
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.external_scoring import ScoringEngine, ScoringOrder

EVENTS: Final = 10_000_000
COMMIT_EVENTS: Final = 30_000
TOPIC: Final = "waiting"
BATCH: Final = "20261130T000000000Z"
MAY_DIFFER: Final = frozenset({"batch", "predicted_at"})
"""Columns in which the rows of two engines may differ."""

Digest: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Measured:
    """Seconds of a backlog.

    Attributes:
        events: number of events.
        loop: seconds of the commit loop, with rows and predictions.
        scored: seconds until Spark has staged all rows, its start included.
        total: seconds until all predictions are published, too.
    """

    events: int
    loop: float
    scored: float
    total: float


def measure(console: Console, *, events: int) -> Measured:
    """Process the same backlog without Spark and with it.

    Raises:
        RuntimeError: their rows or their predictions are not the same.
    """
    with own_stack() as stack:
        contest = Contest(stack, console)
        contest.fill(TOPIC, events)
        task = contest.task("loop", TOPIC, events=events, commit_events=COMMIT_EVENTS)
        drain = contest.measure("loop", task)
        base = StreamConfig.from_settings(settings())
        config = replace(
            base,
            dsn=new_database(stack, "spark"),
            events_topic=TOPIC,
            predictions_topic="predictions-of-spark",
            kafka=replace(base.kafka, group="spark"),
        )
        created_topics.create_missing(clients.admin(config.kafka.client), config)
        work.promote(config.dsn, work.trained_bundle(stack.local / "bundle-of-spark"))
        with connect(config.dsn, autocommit=True, application_name="benchmark") as connection:
            stream_batches.plan_batch(connection, BATCH)
        engine, ended = _timed(config, most=events)
        began = time.monotonic()
        runs.materialize(config, [BATCH], run_id="benchmark", log=console.print, confirm=lambda: None, engine=engine)
        total = time.monotonic() - began
        with connect(config.dsn, autocommit=True, application_name="benchmark") as connection:
            batch = stream_batches.find_batch(connection, BATCH)
        if batch is None or batch.predictions != events:
            raise RuntimeError(f"Spark's batch has other counts than {events} predictions: {batch}.")
        console.print("The rows and the predictions of both are compared ...", style="dim")
        _require_equal("table", _rows(task.dsn), _rows(config.dsn))
        _require_equal(
            "topic", _predictions(config, task.predictions_topic), _predictions(config, config.predictions_topic)
        )
    return Measured(events, loop=events / drain.events_per_second, scored=ended[-1] - began, total=total)


def _rows(dsn: str) -> Digest:
    """Return the number of rows of churn_predictions, and the sum of their hashes without what may differ."""
    columns = (each.name for each in prediction_table(schema_of(settings())).columns if each.name not in MAY_DIFFER)
    query = sql.SQL("select count(*), sum(hashtextextended(row({})::text, 0)) from churn_predictions").format(
        sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connect(dsn, autocommit=True, application_name="benchmark") as connection:
        row = connection.execute(query).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1] or 0))


def _predictions(config: StreamConfig, topic: str) -> Digest:
    """Return the number of predictions of a topic, and the sum of their hashes without what may differ."""
    decode, encode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode, msgspec.json.Encoder(order="sorted").encode
    count, total = 0, 0
    for message in read_all(config.kafka, topic):
        value = decode(message.value() or b"")
        kept = encode({name: given for name, given in value.items() if name not in MAY_DIFFER})
        count, total = count + 1, total + hash((message.key(), kept))
    return count, total


def _require_equal(what: str, loop: Digest, spark: Digest) -> None:
    """Compare what both have written.

    Raises:
        RuntimeError: it is not the same.
    """
    if loop != spark:
        raise RuntimeError(f"The {what} of the loop and that of Spark differ: (number, sum of hashes) {loop}, {spark}.")


def _timed(config: StreamConfig, *, most: int) -> tuple[ScoringEngine, list[float]]:
    """Return Spark as an engine, and a list that gets the time at which each attempt ends."""
    ended: list[float] = []

    def start(command: Sequence[str], variables: Mapping[str, str]) -> None:
        subprocess.run(command, env={**os.environ, **variables}, check=False)

    spark = spark_engine(config, SparkConfig.from_settings(settings()), start)

    def score(order: ScoringOrder) -> None:
        spark.score(order)
        ended.append(time.monotonic())

    return ScoringEngine(score, most), ended


def main(
    events: Annotated[int, typer.Option(min=1, help="Backlog, in events.")] = EVENTS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Process a backlog with the commit loop, then with Spark (SPARK_MASTER).

    Example: make bench-spark ARGS="--events 1000000"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(console, events=events)
    console.print(
        f"{events:,} events: loop {found.loop:,.0f} s; Spark {found.total:,.0f} s, {found.scored:,.0f} s of them until "
        f"all rows were staged; the same rows and predictions",
        highlight=False,
    )
    if json_file is not None:
        json_file.write_text(json.dumps({"spark": asdict(found), "machine": asdict(machine)}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
