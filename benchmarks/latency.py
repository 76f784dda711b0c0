"""Latency of the whole platform: from an event's time to its visible row and to its published prediction.

Example: python -m benchmarks.latency --rates 500 --seconds 60
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import httpx
import msgspec
import numpy as np
import psycopg
import typer
from confluent_kafka import TopicPartition
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.machine import this_machine
from benchmarks.servers import cpu_seconds, own_stack
from churn_platform.database import advisory_locks, stream_batches
from churn_platform.kafka import clients, topics
from churn_platform.kafka.reading import make_consumer
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.simulation.producer import customer_event
from churn_platform.stream.config import StreamConfig

# Polling interval of the positions: rows are observed at most this long after they become visible.
POLL_SECONDS: Final = 0.003
# Interval at which an open browser refreshes the page of runs and the asset page of the predictions.
PAGE_SECONDS: Final = 5.0
RATES: Final = (500, 5_000)
SECONDS: Final = 330.0  # longer than a batch, so that at least one handover is inside
FIRST_EVENTS: Final = 2
# Time for a run to start streaming and for its standby to warm up.
WARM_UP_SECONDS: Final = 20.0
WAIT_SECONDS: Final = 120.0
# Time without an event before each first event. The first of them comes while no batch is open.
PAUSE_SECONDS: Final = 30.0
WARM_UP_TOPIC: Final = "warm-up"

_POSITIONS: Final = "select kafka_partition, next_offset from stream_positions"
_EVENTS: Final = """
    select kafka_partition, kafka_offset, extract(epoch from event_timestamp)::double precision
    from churn_predictions
    where event_timestamp >= to_timestamp(%s) and event_timestamp < to_timestamp(%s)
"""
_PAGES: Final = (
    "{ runsOrError(limit: 25) { ... on Runs { results { runId status startTime endTime tags { key value } } } } }",
    """{ assetNodeOrError(assetKey: {path: ["churn_predictions"]}) { ... on AssetNode {
        assetMaterializations(limit: 50) { partition timestamp }
        assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } } } } }""",
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of latencies, in milliseconds."""

    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, seconds: Floats) -> "Quantiles":
        """Quantiles of latencies.

        Raises:
            RuntimeError: there is none.
        """
        if not len(seconds):
            raise RuntimeError("Nothing was seen in the time that was measured.")
        return cls(*(round(float(value), 1) for value in np.percentile(seconds * 1000, (50, 90, 99, 99.9, 100))))


@dataclass(frozen=True)
class Latency:
    """Results at one rate. `cores` is the CPU usage of the whole stack, in cores."""

    events: int
    row: Quantiles
    topic: Quantiles
    handovers: int
    metric_runs: int
    cores: float


@dataclass
class Observer:
    """Observes the ledger's positions, if asked to, and the predictions topic. A context manager."""

    config: StreamConfig
    rows: bool = True
    seen: list[tuple[float, int, int]] = field(default_factory=list)  # moment, Kafka partition, next offset
    published: list[tuple[float, float]] = field(default_factory=list)  # event's time, moment

    def __enter__(self) -> "Observer":
        self._ending = threading.Event()
        self._errors: list[Exception] = []
        observed = (self._rows, self._topic) if self.rows else (self._topic,)
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in observed]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # raised in the main thread by __exit__
            self._errors.append(error)

    def _rows(self) -> None:
        at: dict[int, int] = {}
        with psycopg.connect(self.config.dsn, autocommit=True) as connection:
            while not self._ending.wait(POLL_SECONDS):
                found: dict[int, int] = dict(connection.execute(_POSITIONS, prepare=True).fetchall())
                now = time.time()
                self.seen += [(now, partition, end) for partition, end in found.items() if at.get(partition) != end]
                at = found

    def _topic(self) -> None:
        admin, consumer = clients.admin(self.config.kafka.client), make_consumer(self.config.kafka)
        topic = topics.describe(admin, self.config.predictions_topic)
        ends = topics.list_offsets(admin, topic, topics.LATEST)
        consumer.assign([TopicPartition(topic.name, partition, end) for partition, end in ends.items()])
        decode = msgspec.json.Decoder(_Published).decode
        while not self._ending.is_set():
            messages = consumer.consume(500, POLL_SECONDS)
            now = time.time()
            self.published += [
                (decode(message.value() or b"").event_timestamp.timestamp(), now)
                for message in messages
                if message.error() is None
            ]
        consumer.close()

    def row_latencies(self, connection: psycopg.Connection, began: float, ended: float) -> Floats:
        """Return the seconds to the row of each event of a period."""
        rows = connection.execute(_EVENTS, (began, ended)).fetchall()
        partitions, offsets, moments = (np.array(column) for column in zip(*rows, strict=True))
        found: list[Floats] = []
        for partition in np.unique(partitions):
            steps = [(moment, end) for moment, each, end in self.seen if each == partition]
            at, ends = (np.array(column) for column in zip(*steps, strict=True))
            mine = partitions == partition
            found.append(at[np.searchsorted(ends, offsets[mine], side="right")] - moments[mine])
        return np.concatenate(found)

    def topic_latencies(self, began: float, ended: float) -> Floats:
        """Return the seconds to the published prediction of each event of a period."""
        return np.array([at - moment for moment, at in self.published if began <= moment < ended])


class _Published(msgspec.Struct):
    event_timestamp: datetime


class Platform:
    """A running platform with a champion, and the measurements."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self.config = StreamConfig.from_settings(settings())
        work.promote(self.config.dsn, work.trained_bundle(stack.local / "bundle"))
        self.connection = psycopg.connect(self.config.dsn, autocommit=True)
        self._customers = work.customers()
        work.create_topic(WARM_UP_TOPIC)

    def become_ready(self) -> None:
        """Wait until a run is ready for the first event, and no batch is open."""
        wait_until(
            lambda: (
                advisory_locks.lock_sessions(self.connection, self.config.events_topic)[0] is not None
                and not stream_batches.open_batches(self.connection)
            ),
            "a run to be ready",
        )

    def first_event(self, pause: float) -> float:
        """Return the seconds from an event that arrives after a pause, in seconds, to its row."""
        # A producer that sends its first message connects first, which takes up to a second.
        producer = clients.producer({**self.config.kafka.client, "acks": "all"})
        producer.produce(WARM_UP_TOPIC, b"")
        producer.flush()
        time.sleep(pause)
        before = self._rows()
        began = time.time()
        event = customer_event(self._customers[0], self.config.schema, moment=datetime.now(UTC))
        producer.produce(self.config.events_topic, msgspec.json.encode(event))
        producer.flush()
        wait_until(lambda: self._rows() > before, "the row of an event")
        row = self.connection.execute(
            "select extract(epoch from pg_xact_commit_timestamp(xmin) - event_timestamp)::double precision "
            "from churn_predictions where event_timestamp >= to_timestamp(%s)",
            (began,),
        ).fetchone()
        if row is None:
            raise RuntimeError("The event has no row.")
        return float(row[0])

    def _rows(self) -> int:
        row = self.connection.execute("select count(*) from churn_predictions").fetchone()
        return int(row[0]) if row else 0

    def measure(self, rate: float, seconds: float, *, warm_up: float = WARM_UP_SECONDS) -> Latency:
        """Measure events at a rate, after a warm-up, with the UI open."""
        before = self._rows()
        longest = WAIT_SECONDS + warm_up + seconds
        command = [sys.executable, "-m", "churn_platform.cli", "produce"]
        with subprocess.Popen(
            [*command, "--rate", str(rate), "--duration", str(longest)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as producer:
            wait_until(lambda: self._rows() > before, "the first rows")
            time.sleep(warm_up)
            with Observer(self.config) as observer, self._open_page():
                time.sleep(1)
                began, cpu = time.time(), cpu_seconds(self._stack)
                time.sleep(seconds)
                ended, spent = time.time(), cpu_seconds(self._stack) - cpu
                time.sleep(1)
                producer.terminate()
        batches, metrics = self._counts(began, ended)
        rows = observer.row_latencies(self.connection, began, ended)
        return Latency(
            events=len(rows),
            row=Quantiles.of(rows),
            topic=Quantiles.of(observer.topic_latencies(began, ended)),
            handovers=batches,
            metric_runs=metrics,
            cores=round(spent / (ended - began), 2),
        )

    def _counts(self, began: float, ended: float) -> tuple[int, int]:
        """Return the numbers of batches opened and metric runs started in a period."""
        row = self.connection.execute(
            """
            select
                (select count(*) from stream_batches
                 where opened between to_timestamp(%(began)s) and to_timestamp(%(ended)s)),
                (select count(*) from dagster.runs
                 where start_time between %(began)s and %(ended)s and pipeline_name <> 'prediction_stream_job')
            """,
            {"began": began, "ended": ended},
        ).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    @contextmanager
    def _open_page(self) -> Iterator[None]:
        """Send the requests of an open browser."""
        ending = threading.Event()
        url = f"{self._stack.addresses['dagster']}/graphql"

        def refresh() -> None:
            with httpx.Client(trust_env=False, timeout=30) as client:
                while not ending.wait(PAGE_SECONDS):
                    for query in _PAGES:
                        client.post(url, json={"query": query}).raise_for_status()

        thread = threading.Thread(target=refresh)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()


def wait_until(holds: Callable[[], bool], what: str, *, seconds: float = WAIT_SECONDS, pause: float = 0.02) -> None:
    """Wait for a condition, at most this many seconds, with pauses of this length between two looks at it.

    Raises:
        RuntimeError: it was not met in time.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Waited {seconds:.0f} s for {what}, without success.")
        time.sleep(pause)


def measure(
    console: Console,
    *,
    rates: Sequence[int] = RATES,
    seconds: float = SECONDS,
    first_events: int = FIRST_EVENTS,
    pause: float = PAUSE_SECONDS,
    warm_up: float = WARM_UP_SECONDS,
) -> tuple[dict[str, Latency], list[float]]:
    """Measure latencies by rate and the seconds of first events, on a separate platform."""
    with own_stack(services_only=False) as stack:
        platform = Platform(stack, console)
        platform.become_ready()
        first = [platform.first_event(pause) for _ in range(first_events)]
        console.print(
            f"first events: {', '.join(f'{1000 * each:.0f} ms' for each in first)}", style="dim", highlight=False
        )
        found = {}
        for rate in rates:
            found[str(rate)] = platform.measure(rate, seconds, warm_up=warm_up)
            console.print(f"{rate} events a second: {found[str(rate)]}", style="dim", highlight=False)
    return found, first


def show(console: Console, found: dict[str, Latency], first: Sequence[float]) -> None:
    """Print the results as a table, in milliseconds."""
    table = Table(
        "events a second", "to", "p50", "p90", "p99", "p99.9", "max", "handovers", "cores", box=None, header_style="dim"
    )
    for rate, latency in found.items():
        for to, quantiles in (("row", latency.row), ("topic", latency.topic)):
            figures = (quantiles.p50, quantiles.p90, quantiles.p99, quantiles.p999, quantiles.max)
            table.add_row(
                rate, to, *(f"{each:,.0f} ms" for each in figures), str(latency.handovers), f"{latency.cores:.2f}"
            )
    console.print(table)
    if first:
        console.print(f"first event after a pause: {1000 * max(first):.0f} ms at most of {len(first)}", highlight=False)


def main(
    rates: Annotated[str, typer.Option(help="Events per second.")] = ",".join(map(str, RATES)),
    seconds: Annotated[float, typer.Option(min=5, help="Duration of each measurement.")] = SECONDS,
    first_events: Annotated[int, typer.Option(min=0, help="Number of first events to measure.")] = FIRST_EVENTS,
    pause: Annotated[float, typer.Option(min=0, help="Seconds before each first event.")] = PAUSE_SECONDS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure latency under the daemon, with handovers, metric runs and the UI open.

    Example: make bench-latency ARGS="--rates 500 --seconds 60"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found, first = measure(
        console, rates=[int(r) for r in rates.split(",")], seconds=seconds, first_events=first_events, pause=pause
    )
    show(console, found, first)
    if json_file is not None:
        latency = {rate: asdict(each) for rate, each in found.items()}
        json_file.write_text(
            json.dumps({"latency": latency, "first_event": first, "machine": asdict(machine)}, indent=2) + "\n"
        )


if __name__ == "__main__":
    typer.run(main)
