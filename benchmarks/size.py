"""Disk per million events: the rows and their indexes in PostgreSQL, and both topics in Kafka.

Example: python -m benchmarks.size --events 100000
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import psycopg
import typer
from rich.console import Console

from benchmarks.machine import this_machine
from benchmarks.servers import own_stack
from benchmarks.throughput import Contest, run

EVENTS: Final = 200_000
COMMIT_EVENTS: Final = 10_000
TOPIC: Final = "waiting"
MILLION: Final = 1_000_000
# The tables that grow with events. Whatever else is in the database is of constant size or grows with batches.
_TABLES: Final = """
    select coalesce(sum(pg_total_relation_size(c.oid)), 0) from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'public' and c.relkind = 'r'
"""


@dataclass(frozen=True)
class Size:
    """Megabytes per million events, of one replica."""

    postgres: float
    events_topic: float
    predictions_topic: float


def measure(console: Console, *, events: int = EVENTS, commit_events: int = COMMIT_EVENTS) -> Size:
    """Drain a backlog with the commit loop, and measure what it leaves on the disk.

    Args:
        console: for progress.
        events: the backlog.
        commit_events: events in a commit.
    """
    with own_stack() as stack:
        contest = Contest(stack, console)
        contest.fill(TOPIC, events)
        task = contest.task("loop", TOPIC, events=events, commit_events=commit_events)
        with psycopg.connect(task.dsn, autocommit=True) as connection:
            before = _of_tables(connection)
            run("loop", task, python=sys.executable)
            after = _of_tables(connection)
        logs = stack.local / "kafka"
        return Size(
            postgres=_per_million(after - before, events),
            events_topic=_per_million(_of_topic(logs, TOPIC), events),
            predictions_topic=_per_million(_of_topic(logs, task.predictions_topic), events),
        )


def _of_tables(connection: psycopg.Connection) -> int:
    row = connection.execute(_TABLES).fetchone()
    return int(row[0]) if row else 0


def _of_topic(logs: Path, topic: str) -> int:
    """Return the bytes of a topic's segments. Its indexes are preallocated, and small in a large topic."""
    return sum(file.stat().st_size for file in logs.rglob(f"{topic}-*/*.log"))


def _per_million(size: int, events: int) -> float:
    return size / events * MILLION / 1e6


def main(
    events: Annotated[int, typer.Option(min=1, help="Backlog, in events.")] = EVENTS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure the disk that a million events take in PostgreSQL and in Kafka.

    Example: make bench-size ARGS="--events 100000"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(console, events=events)
    console.print(
        f"MB per million events: PostgreSQL {found.postgres:.0f}, topic of events {found.events_topic:.0f}, topic of "
        f"predictions {found.predictions_topic:.0f}",
        highlight=False,
    )
    if json_file is not None:
        json_file.write_text(json.dumps({"size": asdict(found), "machine": asdict(machine)}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
