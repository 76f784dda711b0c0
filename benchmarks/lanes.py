"""What lanes cost and bring: throughput of a backlog, and CPU per event at a rate, with 1, 2 and 3 lanes.

Example: python -m benchmarks.lanes --rounds 2 --events 100000 --rate 1000 --seconds 20
"""

import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import psutil
import psycopg
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.contenders.task import Task
from benchmarks.cost import RUNS, events_at, kind_of
from benchmarks.latency import wait_until
from benchmarks.machine import this_machine
from benchmarks.servers import own_stack, processes
from churn_platform.database import advisory_locks, stream_layouts, stream_positions
from churn_platform.environments import created_topics
from churn_platform.kafka import clients, topics
from churn_platform.lanes import Lane
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig

LANES: Final = (1, 2, 3)
ROUNDS: Final = 5
# Divided equally among 1, 2 and 3 lanes.
PARTITIONS: Final = 6
EVENTS: Final = 1_200_000
RATE: Final = 5_000
SECONDS: Final = 60.0
# From the first row at the rate to the measurement: caches of the servers fill, and the broker's JVM compiles.
WARM_UP_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.01
UNENDING: Final = 10**12
LEAST_SHOWN: Final = 0.1
"""Microseconds per event that a kind of process takes at least to be shown in the table."""
MOST_CPU: Final = 1.10
"""Greatest ratio of the CPU per event with several lanes to that with one, at the same rate."""
LEAST_THROUGHPUT: Final = 0.95
"""Least ratio of the throughput with two lanes to that with one, on the same two cores."""

_COUNTS: Final = "select coalesce(sum(events), 0)::bigint, coalesce(sum(commits), 0)::bigint from stream_batches"


@dataclass(frozen=True)
class Drained:
    """A backlog that was read.

    Attributes:
        events_per_second: from when each lane has committed until one of them has read its part. What comes after says
            how equal the parts are, and the lane that is ready explains high risks meanwhile.
        events_per_commit: on average.
        parts: microseconds of CPU per event by kind of process, of the runs and the servers.
    """

    events_per_second: float
    events_per_commit: float
    parts: dict[str, float]

    @property
    def cpu(self) -> float:
        """Microseconds of CPU per event."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Measured:
    """The stream with one number of lanes.

    Attributes:
        drained: a backlog.
        rate_cpu: microseconds of CPU per event while events arrive at a rate, of the runs and the servers.
    """

    drained: Drained
    rate_cpu: float


Round = dict[int, Measured]


class Comparison:
    """Kafka and PostgreSQL, and streaming processes whose number changes."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._config = StreamConfig.from_settings(settings())
        bundle = work.trained_bundle(stack.local / "bundle")
        work.promote(self._config.dsn, bundle)
        self._admin = clients.admin(self._config.kafka.client)
        created_topics.create_missing(self._admin, self._config)
        self._customers = work.customers()
        self._connection = psycopg.connect(self._config.dsn, autocommit=True)
        self._runs: list[psutil.Process] = []
        self._task = Task(
            brokers=stack.addresses["kafka"],
            dsn=self._config.dsn,
            events_topic=self._config.events_topic,
            predictions_topic=self._config.predictions_topic,
            group=self._config.kafka.group,
            bundle=bundle,
            events=UNENDING,
            commit_events=self._config.commit_events,
            folder=str(stack.local),
        )

    def measure(self, lanes: int, *, events: int, rate: float, seconds: float, warm_up: float) -> Measured:
        """Measure this number of lanes: first a backlog, then events at a rate.

        Args:
            lanes: how many.
            events: of the backlog.
            rate: events a second.
            seconds: duration of the measurement at the rate.
            warm_up: seconds from the first row at the rate to the measurement.
        """
        with self._waiting_runs(lanes) as holder:
            work.fill(self._config.events_topic, self._customers, events)
            return Measured(self._drain(lanes, holder), self._cpu_at(rate, seconds, warm_up))

    def drain(self, events: int) -> Drained:
        """Measure one lane while it reads a backlog, which is a batch of its own."""
        with self._waiting_runs(1, batch_events=events) as holder:
            work.fill(self._config.events_topic, self._customers, events)
            return self._drain(1, holder)

    @contextmanager
    def _waiting_runs(self, lanes: int, *, batch_events: int = UNENDING) -> Iterator[psycopg.Connection]:
        """Start a run of each lane; yield the connection whose lock keeps all of them from reading, until it closes."""
        topic = self._config.events_topic
        layout = stream_layouts.layout(self._connection, topic)
        stream_layouts.want(self._connection, topic, lanes, seen=layout)
        with psycopg.connect(self._config.dsn, autocommit=True) as holder:
            advisory_locks.lock_stream(holder, topic)
            task = replace(self._task, events=batch_events, lanes=lanes)
            started = [_start(replace(task, lane=lane)) for lane in range(lanes)]
            self._runs = [psutil.Process(process.pid) for process in started]
            try:
                wait_until(
                    lambda: all(each.waiting for each in advisory_locks.lane_sessions(self._connection, topic, lanes)),
                    "a run of each lane that waits for the lock",
                )
                yield holder
            finally:
                for process in started:
                    process.terminate()
                    process.wait()
                wait_until(lambda: not advisory_locks.streaming_sessions(self._connection), "the end of the runs")

    def _drain(self, lanes: int, holder: psycopg.Connection) -> Drained:
        """Let the runs read a backlog, and measure while each lane has a part of it.

        Raises:
            RuntimeError: the backlog of a lane was read in one commit.
        """
        topic = topics.describe(self._admin, self._config.events_topic)
        ends = topics.list_offsets(self._admin, topic, topics.LATEST)
        parts = [topics.part_of(topic, Lane(lanes, number)).partitions for number in range(lanes)]

        def positions() -> dict[int, int]:
            return {**dict.fromkeys(ends, 0), **stream_positions.next_offsets(self._connection, topic.topic_id)}

        starts = positions()

        def begun() -> bool:
            now = positions()
            return all(any(now[p] > starts[p] for p in part) for part in parts)

        def ended() -> list[bool]:
            now = positions()
            return [all(now[p] >= ends[p] for p in part) for part in parts]

        holder.close()
        wait_until(begun, "a commit of each lane")
        (before, commits), began, spent = self._counts(), time.monotonic(), self._cpu_seconds()
        while not any(ended()):
            time.sleep(POLL_SECONDS)
        (after, more_commits), took = self._counts(), time.monotonic() - began
        used = _more(self._cpu_seconds(), spent)
        read = after - before
        if not read:
            raise RuntimeError(
                f"The backlog of a lane was read in one commit, with {lanes} lanes: measure a larger one."
            )
        wait_until(lambda: all(ended()), "the end of the backlog")
        return Drained(
            events_per_second=read / took,
            events_per_commit=read / (more_commits - commits),
            parts={kind: round(1e6 * seconds / read, 2) for kind, seconds in used.items()},
        )

    def _cpu_at(self, rate: float, seconds: float, warm_up: float) -> float:
        """Return the microseconds of CPU per event while events arrive at a rate."""
        with events_at(self._config.events_topic, rate):
            known, _ = self._counts()
            wait_until(lambda: self._counts()[0] > known, "the first event at the rate")
            time.sleep(warm_up)
            (before, _), spent = self._counts(), self._cpu_seconds()
            time.sleep(seconds)
            used = sum(_more(self._cpu_seconds(), spent).values())
            return 1e6 * used / (self._counts()[0] - before)

    def _counts(self) -> tuple[int, int]:
        """Return how many events and commits there were so far."""
        row = self._connection.execute(_COUNTS).fetchone()
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def _cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds of the servers and the runs so far, by kind. The producer is neither."""
        runs = {process.pid for process in self._runs}
        found = {process.pid: process for process in [*processes(self._stack), *self._runs]}
        spent: dict[str, float] = defaultdict(float)
        for process in found.values():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent[RUNS if process.pid in runs else kind_of(process)] += (
                    times.user + times.system + times.children_user + times.children_system
                )
        return spent


def _more(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each value has grown, of those that have."""
    return {kind: value - before.get(kind, 0.0) for kind, value in sorted(now.items()) if value > before.get(kind, 0.0)}


def _start(task: Task) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.contenders.loop", task.to_json()], cwd=Path(__file__).parents[1]
    )


def measure(
    console: Console,
    *,
    lanes: Sequence[int] = LANES,
    rounds: int = ROUNDS,
    events: int = EVENTS,
    rate: float = RATE,
    seconds: float = SECONDS,
    warm_up: float = WARM_UP_SECONDS,
) -> list[Round]:
    """Measure each number of lanes once in a round; every second round begins with the last number.

    Args:
        console: for progress.
        lanes: numbers of lanes.
        rounds: how many. The first one also compiles and caches, and does not count.
        events: of each backlog.
        rate: events a second while the CPU per event is measured.
        seconds: duration of that.
        warm_up: seconds from the first row at the rate to the measurement.
    """
    with own_stack({"TOPIC_PARTITIONS": str(PARTITIONS)}) as stack:
        comparison = Comparison(stack)
        found = []
        for number in range(rounds + 1):
            order = lanes if number % 2 == 0 else lanes[::-1]
            measured = {
                count: comparison.measure(count, events=events, rate=rate, seconds=seconds, warm_up=warm_up)
                for count in order
            }
            console.print(f"round {number}: {measured}", style="dim", highlight=False)
            found.append(measured)
    return found[1:]


def ratios(found: Sequence[Round], lanes: int) -> tuple[float, float]:
    """Return the medians of throughput and CPU per event at the rate, each as its ratio to one lane in its round."""
    return (
        statistics.median(each[lanes].drained.events_per_second / each[1].drained.events_per_second for each in found),
        statistics.median(each[lanes].rate_cpu / each[1].rate_cpu for each in found),
    )


def show(console: Console, found: Sequence[Round], rate: float) -> None:
    """Print the medians as a table."""
    table = Table(
        *("lanes", "events a second", "ratio", "events a commit", "CPU per event of a backlog"),
        *(f"CPU per event at {rate:,.0f} a second", "ratio"),
        box=None,
        header_style="dim",
    )
    for lanes in sorted(found[0]):
        drained = [each[lanes].drained for each in found]
        parts = {
            kind: statistics.median(each.parts.get(kind, 0.0) for each in drained) for kind in sorted(drained[0].parts)
        }
        throughput_ratio, cpu_ratio = ratios(found, lanes)
        table.add_row(
            str(lanes),
            f"{statistics.median(each.events_per_second for each in drained):,.0f}",
            f"{throughput_ratio:.2f}",
            f"{statistics.median(each.events_per_commit for each in drained):,.0f}",
            f"{statistics.median(each.cpu for each in drained):.1f} µs: "
            + ", ".join(f"{kind} {value:.1f}" for kind, value in parts.items() if value >= LEAST_SHOWN),
            f"{statistics.median(each[lanes].rate_cpu for each in found):.1f} µs",
            f"{cpu_ratio:.2f}",
        )
    console.print(table)
    console.print(
        f"goals: CPU per event at the rate at most {MOST_CPU:.2f} of one lane's; throughput of two lanes at least "
        f"{LEAST_THROUGHPUT:.2f} of one lane's",
        style="dim",
        highlight=False,
    )


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that does not.")] = ROUNDS,
    events: Annotated[int, typer.Option(min=1_000, help="Events of each backlog.")] = EVENTS,
    rate: Annotated[float, typer.Option(min=1, help="Events a second while CPU per event is measured.")] = RATE,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of that measurement.")] = SECONDS,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds at that rate before it.")] = WARM_UP_SECONDS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure throughput and CPU per event with 1, 2 and 3 lanes on six partitions.

    Example: make bench-lanes ARGS="--rounds 2 --seconds 20"
    """
    console, machine = Console(width=140), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(console, rounds=rounds, events=events, rate=rate, seconds=seconds, warm_up=warm_up)
    show(console, found, rate)
    if json_file is not None:
        report = {
            "rounds": [{lanes: asdict(each) for lanes, each in measured.items()} for measured in found],
            "ratios": {
                lanes: dict(zip(("throughput", "rate_cpu"), ratios(found, lanes), strict=True)) for lanes in found[0]
            },
            "rate": rate,
            "machine": asdict(machine),
        }
        json_file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
