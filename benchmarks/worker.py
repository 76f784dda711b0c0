"""What the resident worker costs the stream: throughput and latency with it and without it, in alternating pairs.

Example: python -m benchmarks.worker --pairs 3 --events 300000 --seconds 20
"""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Annotated, Final

import psycopg
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.cost import COMPILING_RATE, COMPILING_SECONDS, LATENCIES, events_at
from benchmarks.latency import wait_until
from benchmarks.machine import this_machine
from benchmarks.servers import own_stack, processes
from churn_platform.database import advisory_locks, stream_pauses, worker_positions
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig
from churn_platform.worker import cases, summaries
from churn_platform.worker.loop import SESSION_PREFIX

PAIRS: Final = 7
EVENTS: Final = 500_000
RATE: Final = 500
SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.01
ALLOWED: Final = 0.95
"""Least ratio of a stream without the worker to one with it, in latency, or the reverse, in throughput."""

_IN_TRANSACTION: Final = """
    select exists (
        select from pg_stat_activity
        where starts_with(application_name, %s) and (state <> 'idle' or backend_xmin is not null)
    )
"""
_UNEXPLAINED: Final = "select exists (select from high_risk_customers where reasons is null)"
_EVENTS: Final = "select coalesce(sum(events), 0)::bigint from stream_batches"


@dataclass(frozen=True)
class Measured:
    """The stream in one state: events a second of a backlog, and milliseconds from an event to its row."""

    events_per_second: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Pair:
    """The stream with the worker and without it, one right after the other."""

    on: Measured
    off: Measured

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Throughput, p50 and p99: the worker's share of what the stream is without it; 1 is no difference."""
        return (
            self.on.events_per_second / self.off.events_per_second,
            self.off.p50 / self.on.p50,
            self.off.p99 / self.on.p99,
        )


class _Receiver(BaseHTTPRequestHandler):
    """Takes every message."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def _receiver() -> Iterator[str]:
    """Run a webhook's receiver, and yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Receiver) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class Comparison:
    """A running platform whose worker can be suspended."""

    def __init__(self, stack: Stack) -> None:
        self._config = StreamConfig.from_settings(settings())
        work.promote(self._config.dsn, work.trained_bundle(stack.local / "bundle"))
        self._customers = work.customers()
        self._connection = psycopg.connect(self._config.dsn, autocommit=True)
        self._worker = next(each for each in processes(stack) if "churn_platform.worker" in each.cmdline())

    def warm_up(self, seconds: float) -> None:
        """Let events arrive for a while, so that the servers have compiled and cached what they use."""
        with events_at(self._config.events_topic, COMPILING_RATE):
            time.sleep(seconds)

    def measure(self, *, with_worker: bool, events: int, rate: float, seconds: float) -> Measured:
        """Measure a backlog of events, and then events at a rate, with the worker or while it is suspended."""
        self._follow_everything()
        if with_worker:
            throughput = self._drain(events)
            # The backlog's cost is no part of the latency at an ordinary rate.
            self._explain_everything()
            self._follow_everything()
            return Measured(throughput, *self._latencies(rate, seconds))
        with self._suspended():
            throughput = self._drain(events)
            self._explain_everything()
            return Measured(throughput, *self._latencies(rate, seconds))

    def _explain_everything(self) -> None:
        wait_until(
            lambda: self._connection.execute(_UNEXPLAINED).fetchone() == (False,),
            "the reasons of the backlog's high-risk predictions",
        )

    def _follow_everything(self) -> None:
        wait_until(
            lambda: not any(worker_positions.behind(self._connection, name) for name in (cases.NAME, summaries.NAME)),
            "the worker to follow the stream",
        )

    @contextmanager
    def _suspended(self) -> Iterator[None]:
        """Stop the worker's process within the block, while none of its sessions is in a transaction."""
        self._worker.suspend()
        try:
            while self._is_in_transaction():
                self._worker.resume()
                time.sleep(POLL_SECONDS)
                self._worker.suspend()
                time.sleep(POLL_SECONDS)
            yield
        finally:
            self._worker.resume()

    def _is_in_transaction(self) -> bool:
        return self._connection.execute(_IN_TRANSACTION, (SESSION_PREFIX,)).fetchone() == (True,)

    def _drain(self, events: int) -> float:
        """Return the events a second of a backlog, from its first commit to its last one."""
        topic = self._config.events_topic
        stream_pauses.pause(self._connection, topic)
        wait_until(lambda: not advisory_locks.streaming_sessions(self._connection), "the end of the streaming runs")
        work.fill(topic, self._customers, events)
        before = self._events()
        stream_pauses.resume(self._connection, topic)
        wait_until(lambda: self._events() > before, "the first commit")
        first, began = self._events(), time.monotonic()
        while self._events() < before + events:
            time.sleep(POLL_SECONDS)
        return (before + events - first) / (time.monotonic() - began)

    def _events(self) -> int:
        row = self._connection.execute(_EVENTS).fetchone()
        return 0 if row is None else int(row[0])

    def _latencies(self, rate: float, seconds: float) -> tuple[float, float]:
        """Return p50 and p99 at a rate, in milliseconds."""
        with events_at(self._config.events_topic, rate):
            time.sleep(SETTLE_SECONDS)
            began = time.time()
            time.sleep(seconds)
            ended = time.time()
            time.sleep(1)  # for the commits of the last events
        row = self._connection.execute(LATENCIES, (began, ended)).fetchone()
        if row is None or not row[0]:
            raise RuntimeError("No event was processed in the time that was measured.")
        return float(row[1][0]), float(row[1][1])


def measure(
    console: Console,
    *,
    pairs: int = PAIRS,
    events: int = EVENTS,
    rate: float = RATE,
    seconds: float = SECONDS,
    compiling_seconds: float = COMPILING_SECONDS,
) -> list[Pair]:
    """Measure alternating pairs; every second one begins without the worker.

    Args:
        console: for progress.
        pairs: number of pairs.
        events: of each backlog.
        rate: events a second while latency is measured.
        seconds: duration of that.
        compiling_seconds: how long events arrive before the first measurement.
    """
    with _receiver() as webhook:
        targets = {
            "ALERT_TARGETS": f"calls={webhook}",
            "OPERATOR_TARGETS": f"operators={webhook}",
            "ALERT_MODE": "each",
        }
        with own_stack(targets, services_only=False) as stack:
            comparison = Comparison(stack)
            comparison.warm_up(compiling_seconds)
            found = []
            for number in range(pairs):
                order = (True, False) if number % 2 == 0 else (False, True)
                by_state = {
                    state: comparison.measure(with_worker=state, events=events, rate=rate, seconds=seconds)
                    for state in order
                }
                found.append(Pair(on=by_state[True], off=by_state[False]))
                console.print(str(found[-1]), style="dim", highlight=False)
    return found


def show(console: Console, found: Sequence[Pair]) -> None:
    """Print the pairs and the medians of their ratios as a table."""
    table = Table("", "with the worker", "without it", "median ratio", "least", box=None, header_style="dim")
    named = (("events a second", "events_per_second"), ("p50, ms", "p50"), ("p99, ms", "p99"))
    for number, (title, name) in enumerate(named):
        ratios = [pair.ratios[number] for pair in found]
        on, off = (
            statistics.median(getattr(each, name) for each in side)
            for side in ([pair.on for pair in found], [pair.off for pair in found])
        )
        table.add_row(title, f"{on:,.0f}", f"{off:,.0f}", f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}")
    console.print(table)
    console.print(f"allowed: a median of at least {ALLOWED}", style="dim", highlight=False)


def main(
    pairs: Annotated[int, typer.Option(min=1, help="Alternating pairs.")] = PAIRS,
    events: Annotated[int, typer.Option(min=1_000, help="Events of each backlog.")] = EVENTS,
    rate: Annotated[float, typer.Option(min=1, help="Events a second while latency is measured.")] = RATE,
    seconds: Annotated[float, typer.Option(min=1, help="Duration of each measurement of latency.")] = SECONDS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure throughput and latency with the worker, its cases, summaries and messages, and without it.

    Example: make bench-worker ARGS="--pairs 3 --seconds 20"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(console, pairs=pairs, events=events, rate=rate, seconds=seconds)
    show(console, found)
    if json_file is not None:
        report = {"worker": [asdict(each) for each in found], "machine": asdict(machine)}
        json_file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
