"""Cost of an event: CPU of the platform and of the reference loop, at the same latency and with the same servers.

Example: python -m benchmarks.cost --rates 500 --seconds 60 --pairs 1
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import psutil
import psycopg
import typer
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.contenders.task import Task
from benchmarks.latency import wait_until
from benchmarks.machine import this_machine
from benchmarks.servers import new_database, own_stack, processes
from churn_platform.database import advisory_locks, metrics, stream_pauses
from churn_platform.deployment.dagster_home import RUN_PROCESS
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig

RATES: Final = (50, 500, 5_000, 50_000)
PAIRS: Final = 5
SECONDS: Final = 60.0
# Time for a run to start, for its standby to warm up, and for the caches of the servers to fill.
WARM_UP_SECONDS: Final = 20.0
IDLE_SECONDS: Final = 60.0
# Before the first measurement events arrive at this rate for this long, because the broker's JVM compiles what it uses
# often in its first minutes, which takes a quarter of its CPU time. What is measured first would pay for it.
COMPILING_RATE: Final = 500
COMPILING_SECONDS: Final = 120.0
# How long the metrics of the last events may take.
METRICS_SECONDS: Final = 600.0
# The reference loop lingers for as long as gives it the platform's p50, within this many milliseconds.
SAME_MS: Final = 2.0
FIRST_LINGER_MS: Final = 20.0
LONGEST_LINGER_MS: Final = 200.0
TRIES: Final = 5
TRY_SECONDS: Final = 10.0
UNENDING: Final = 10**12

# Parts of a command line -> kind of process. A forked run has the command line of the process that it is forked from,
# but its own name. Both the code server and that process count the time of ended runs as that of their children.
KINDS: Final = {
    "benchmarks.contenders": "reference",  # first, because its arguments name the servers
    "kafka.Kafka": "kafka",
    "postgres": "postgresql",
    "multiprocessing.spawn": "runs",
    "multiprocessing.forkserver": "code server",
    "dagster._daemon": "daemon",
    "dagster_webserver": "webserver",
    "api grpc": "code server",
    "mlflow": "mlflow",
}
CODE_SERVER: Final = "code server"
RUNS: Final = "runs"
REFERENCE_PARTS: Final = frozenset({"reference", "kafka", "postgresql"})

# PostgreSQL writes this time into the commit, so the measurement costs it nothing while events arrive.
LATENCIES: Final = """
    select count(*), percentile_cont(array[0.5, 0.99, 0.999]) within group (
        order by 1000 * extract(epoch from pg_xact_commit_timestamp(xmin) - event_timestamp)
    )
    from churn_predictions
    where event_timestamp >= to_timestamp(%s) and event_timestamp < to_timestamp(%s)
"""


@dataclass(frozen=True)
class Usage:
    """Cores in use by kind of process, and latencies from an event to its row in milliseconds; None while idle."""

    parts: dict[str, float]
    events: int
    p50: float | None
    p99: float | None
    p999: float | None

    @property
    def cores(self) -> float:
        """Cores in use by all kinds."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Pair:
    """A measurement of the platform and one of the reference loop, right after each other, at one rate."""

    platform: Usage
    reference: Usage
    linger_ms: float


@dataclass(frozen=True)
class Cost:
    """Medians over the pairs at one rate.

    Attributes:
        platform, reference: cores in use, idle use included.
        ratio: of the cores in use above idle.
        parts: the platform's cores by kind of process.
        p50, p99, p999: the platform's latencies to the row, in milliseconds.
        reference_p50: that of the reference loop.
    """

    platform: float
    reference: float
    ratio: float
    parts: dict[str, float]
    p50: float
    p99: float
    p999: float
    reference_p50: float


class Meter:
    """Reads the CPU time of the processes of a stack and of one process beside it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.beside: psutil.Process | None = None

    def seconds(self) -> dict[str, float]:
        """Return the CPU seconds spent so far, by kind of process, ended children included."""
        found: dict[str, float] = defaultdict(float)
        for process in [*processes(self._stack), *([self.beside] if self.beside else [])]:
            with suppress(psutil.NoSuchProcess):
                kind, times = kind_of(process), process.cpu_times()
                found[kind] += times.user + times.system
                found[RUNS if kind == CODE_SERVER else kind] += times.children_user + times.children_system
        return found


def kind_of(process: psutil.Process) -> str:
    """Return the kind of a process: a value of KINDS, or "others"."""
    name = process.name()
    if name == RUN_PROCESS:
        return RUNS
    command = " ".join(process.cmdline()) or name
    return next((kind for part, kind in KINDS.items() if part in command), "others")


class Comparison:
    """A running platform, and a database and topics for the reference loop on the same servers."""

    def __init__(self, stack: Stack) -> None:
        self._meter = Meter(stack)
        self.config = StreamConfig.from_settings(settings())
        bundle = work.trained_bundle(stack.local / "bundle")
        work.promote(self.config.dsn, bundle)
        self._task = Task(
            brokers=stack.addresses["kafka"],
            dsn=new_database(stack, "reference"),
            events_topic="reference-events",
            predictions_topic="reference-predictions",
            group="reference",
            bundle=bundle,
            events=UNENDING,
            commit_events=100_000,
            folder=str(stack.local / "reference"),
        )
        work.promote(self._task.dsn, bundle)
        admin = AdminClient(settings().kafka_client)
        new = [
            NewTopic(name, num_partitions=work.PARTITIONS, replication_factor=1)
            for name in (self._task.events_topic, self._task.predictions_topic)
        ]
        for created in admin.create_topics(new).values():
            created.result()

    def warm_up(self, seconds: float) -> None:
        """Let the platform process events for a while."""
        with events_at(self.config.events_topic, COMPILING_RATE):
            wait_until(lambda: _has_new_rows(self.config.dsn), "the platform's rows")
            time.sleep(seconds)

    def idle(self, seconds: float) -> tuple[Usage, Usage]:
        """Return what the platform, and the reference loop with its servers, use without events.

        The metrics of the last events are a part of what these cost, so they are computed before.
        """
        wait_until(
            lambda: _has_all_metrics(self.config.dsn),
            "the metrics of the last events",
            seconds=METRICS_SECONDS,
            pause=1.0,
        )
        time.sleep(WARM_UP_SECONDS)
        platform = self._use(seconds)
        with self.paused(), self._reference(FIRST_LINGER_MS):
            time.sleep(WARM_UP_SECONDS / 4)
            reference = _of_reference(self._use(seconds))
        return platform, reference

    def platform(self, rate: float, seconds: float, warm_up: float) -> Usage:
        """Measure the platform at a rate."""
        with events_at(self.config.events_topic, rate):
            wait_until(lambda: _has_new_rows(self.config.dsn), "the platform's rows")
            time.sleep(warm_up)
            return self._use(seconds, self.config.dsn)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the stream within the block, so that no streaming run uses the servers."""
        topic = self.config.events_topic
        with psycopg.connect(self.config.dsn, autocommit=True) as connection:
            stream_pauses.pause(connection, topic)
            wait_until(lambda: not advisory_locks.streaming_sessions(connection), "the end of the streaming runs")
            yield
            stream_pauses.resume(connection, topic)
            wait_until(lambda: advisory_locks.lock_sessions(connection, topic)[0] is not None, "a streaming run")

    def reference(self, rate: float, seconds: float, linger_ms: float) -> Usage:
        """Measure the reference loop at a rate. Call it while the stream is paused."""
        with self._reference(linger_ms), events_at(self._task.events_topic, rate):
            wait_until(lambda: _has_new_rows(self._task.dsn), "the reference loop's rows")
            time.sleep(WARM_UP_SECONDS / 4)
            return _of_reference(self._use(seconds, self._task.dsn))

    def same_linger(self, rate: float, p50: float) -> float:
        """Return the linger that gives the reference loop this p50, in milliseconds."""
        linger = FIRST_LINGER_MS
        for _ in range(TRIES):
            found = self.reference(rate, TRY_SECONDS, linger).p50 or 0.0
            if abs(found - p50) < SAME_MS / 2:
                break
            # An event waits for half a linger on average.
            linger = min(LONGEST_LINGER_MS, max(1.0, linger + 2 * (p50 - found)))
        return linger

    def _use(self, seconds: float, dsn: str | None = None) -> Usage:
        before, began = self._meter.seconds(), time.time()
        time.sleep(seconds)
        spent, ended = self._meter.seconds(), time.time()
        parts = {
            kind: round((used - before.get(kind, 0.0)) / (ended - began), 4) for kind, used in sorted(spent.items())
        }
        if dsn is None:
            return Usage(parts, 0, None, None, None)
        time.sleep(1)  # for the commits of the last events
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute(LATENCIES, (began, ended)).fetchone()
        if row is None or not row[0]:
            raise RuntimeError("No event was processed in the time that was measured.")
        return Usage(parts, row[0], *(round(float(each), 1) for each in row[1]))

    @contextmanager
    def _reference(self, linger_ms: float) -> Iterator[None]:
        task = replace(self._task, linger=linger_ms / 1000)
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders.reference", task.to_json()],
            cwd=Path(__file__).parents[1],
        ) as process:
            self._meter.beside = psutil.Process(process.pid)
            try:
                yield
            finally:
                self._meter.beside = None
                process.terminate()


@contextmanager
def events_at(topic: str, rate: float) -> Iterator[None]:
    """Send events at a rate. The producer's CPU is not counted."""
    with subprocess.Popen(
        [sys.executable, "-m", "churn_platform.cli", "produce", "--rate", str(rate), "--duration", "100000"],
        env={**os.environ, "EVENTS_TOPIC": topic},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as producer:
        try:
            yield
        finally:
            producer.terminate()


def _has_new_rows(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "select exists (select from churn_predictions where event_timestamp > now() - interval '2 seconds')"
        ).fetchone()
    return row == (True,)


def _has_all_metrics(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return not (metrics.dirty_hours(connection) or metrics.dirty_days(connection))


def _of_reference(usage: Usage) -> Usage:
    """Leave out Dagster's processes, which only look whether the stream is still paused."""
    return replace(usage, parts={kind: cores for kind, cores in usage.parts.items() if kind in REFERENCE_PARTS})


def measure(
    console: Console,
    *,
    rates: Sequence[int] = RATES,
    pairs: int = PAIRS,
    seconds: float = SECONDS,
    warm_up: float = WARM_UP_SECONDS,
    idle_seconds: float = IDLE_SECONDS,
    compiling_seconds: float = COMPILING_SECONDS,
) -> tuple[dict[str, Cost], Usage, Usage]:
    """Measure the cost by rate; and the platform and the reference loop while idle.

    Args:
        rates: events a second.
        pairs: measurements of each at each rate, alternating.
        seconds: duration of each.
        warm_up: seconds from the first row to the measurement.
        idle_seconds: duration of the idle measurements.
        compiling_seconds: how long events arrive before the first measurement.
    """
    with own_stack(services_only=False) as stack:
        comparison = Comparison(stack)
        comparison.warm_up(compiling_seconds)
        idle, reference_idle = comparison.idle(idle_seconds)
        console.print(f"idle: platform {idle}, reference {reference_idle}", style="dim", highlight=False)
        found = {}
        for rate in rates:
            measured: list[Pair] = []
            for _ in range(pairs):
                platform = comparison.platform(rate, seconds, warm_up)
                with comparison.paused():
                    linger = measured[0].linger_ms if measured else comparison.same_linger(rate, platform.p50 or 0.0)
                    reference = comparison.reference(rate, seconds, linger)
                measured.append(Pair(platform, reference, linger))
                console.print(f"{rate} events a second: {measured[-1]}", style="dim", highlight=False)
            found[str(rate)] = _cost(measured, idle, reference_idle)
    return found, idle, reference_idle


def _cost(pairs: Sequence[Pair], idle: Usage, reference_idle: Usage) -> Cost:
    def middle(values: Iterator[float | None]) -> float:
        return round(statistics.median(value or 0.0 for value in values), 3)

    kinds = sorted({kind for pair in pairs for kind in pair.platform.parts})
    return Cost(
        platform=middle(pair.platform.cores for pair in pairs),
        reference=middle(pair.reference.cores for pair in pairs),
        ratio=middle(
            (pair.platform.cores - idle.cores) / (pair.reference.cores - reference_idle.cores) for pair in pairs
        ),
        parts={kind: middle(pair.platform.parts.get(kind, 0.0) for pair in pairs) for kind in kinds},
        p50=middle(pair.platform.p50 for pair in pairs),
        p99=middle(pair.platform.p99 for pair in pairs),
        p999=middle(pair.platform.p999 for pair in pairs),
        reference_p50=middle(pair.reference.p50 for pair in pairs),
    )


def show(console: Console, found: dict[str, Cost], idle: Usage, reference_idle: Usage) -> None:
    """Print the results as a table: cores, and milliseconds to the row."""
    kinds = sorted({kind for cost in found.values() for kind in cost.parts if cost.parts[kind] >= 0.005})
    table = Table(
        "events a second", "platform", *kinds, "reference", "ratio", "p50", "p99", "p99.9", "reference p50",
        box=None, header_style="dim",
    )  # fmt: skip
    table.add_row(
        "idle", f"{idle.cores:.3f}", *(f"{idle.parts.get(kind, 0):.3f}" for kind in kinds),
        f"{reference_idle.cores:.3f}", "", "", "", "", "",
    )  # fmt: skip
    for rate, cost in found.items():
        table.add_row(
            f"{int(rate):,}",
            f"{cost.platform:.2f}",
            *(f"{cost.parts.get(kind, 0):.2f}" for kind in kinds),
            f"{cost.reference:.2f}",
            f"{cost.ratio:.2f}",
            *(f"{each:,.0f} ms" for each in (cost.p50, cost.p99, cost.p999, cost.reference_p50)),
        )
    console.print(table)


def main(
    rates: Annotated[str, typer.Option(help="Events per second.")] = ",".join(map(str, RATES)),
    pairs: Annotated[int, typer.Option(min=1, help="Measurements of each at each rate, alternating.")] = PAIRS,
    seconds: Annotated[float, typer.Option(min=5, help="Duration of each measurement.")] = SECONDS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure the cores that the platform and the reference loop use, at the same p50 to the row.

    Example: make bench-cost ARGS="--rates 500 --pairs 1"
    """
    console, machine = Console(width=140), this_machine()
    console.print(str(machine), highlight=False)
    found, idle, reference_idle = measure(
        console, rates=[int(rate) for rate in rates.split(",")], pairs=pairs, seconds=seconds
    )
    show(console, found, idle, reference_idle)
    if json_file is not None:
        written = {
            "cost": {rate: asdict(cost) for rate, cost in found.items()},
            "idle": {"platform": asdict(idle), "reference": asdict(reference_idle)},
            "machine": asdict(machine),
        }
        json_file.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
