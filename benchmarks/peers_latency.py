"""Latency from an event to its prediction on the topic, of the platform and of the other stream processors.

Example: python -m benchmarks.peers_latency --rate 500 --seconds 60
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.contenders.task import Task
from benchmarks.latency import WARM_UP_SECONDS, Observer, Platform, Quantiles, wait_until
from benchmarks.machine import this_machine
from benchmarks.servers import cpu_seconds, own_stack
from benchmarks.throughput import LONGEST_SECONDS, PEER_COMMIT, PEERS_PYTHON, ROOT, Contest
from churn_platform.kafka.reading import read_all
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig

RATE: Final = 500
SECONDS: Final = 60.0
PLATFORM: Final = "platform, under the daemon"


@dataclass(frozen=True)
class Peer:
    """A contender that follows a topic.

    Attributes:
        title: its name in the table.
        python: the interpreter that runs it.
        rows: what it guarantees about rows in PostgreSQL; None if it writes none.
        topic: what it guarantees about predictions.
    """

    title: str
    python: str
    rows: str | None
    topic: str


EXACTLY, AT_LEAST = "exactly once", "at least once"
PEERS: Final = {
    "kafka_streams": Peer("Kafka Streams", sys.executable, None, EXACTLY),
    "spark_realtime": Peer("Spark, real-time mode", str(PEERS_PYTHON), None, AT_LEAST),
    "quix": Peer("Quix Streams", str(PEERS_PYTHON), EXACTLY, AT_LEAST),
    "bytewax": Peer("Bytewax", str(PEERS_PYTHON), EXACTLY, AT_LEAST),
}


@dataclass(frozen=True)
class Latency:
    """The result of one contender.

    Attributes:
        events: number of events measured.
        topic: latency to the topic.
        cores: CPU usage of the contender and all servers, in cores.
        rows: its guarantee about rows in PostgreSQL; None if it writes none.
        guarantee: its guarantee about predictions on the topic.
    """

    events: int
    topic: Quantiles
    cores: float
    rows: str | None
    guarantee: str


def measure(
    console: Console, *, rate: float = RATE, seconds: float = SECONDS, warm_up: float = WARM_UP_SECONDS
) -> dict[str, Latency]:
    """Measure the platform, and each peer on its own topics, one after the other. Dagster runs for the platform only.

    Raises:
        RuntimeError: a peer failed, or published more or fewer predictions than there are events.
    """
    with own_stack(services_only=False) as stack:
        seen = Platform(stack, console).measure(rate, seconds, warm_up=warm_up)
    found = {PLATFORM: Latency(seen.events, seen.topic, seen.cores, EXACTLY, EXACTLY)}
    console.print(f"{PLATFORM}: {found[PLATFORM]}", style="dim", highlight=False)
    if not PEERS_PYTHON.exists():
        return found
    with own_stack() as stack:
        contest = Contest(stack, console)
        for module, peer in PEERS.items():
            topic = f"events-{module}"
            work.create_topic(topic)
            task = contest.task(module, topic, events=0, commit_events=PEER_COMMIT)
            race = Race(stack, peer, replace(task, follow=True, linger=StreamConfig.from_settings(settings()).linger))
            found[peer.title] = race.run(module, rate, seconds, warm_up)
            console.print(f"{peer.title}: {found[peer.title]}", style="dim", highlight=False)
    return found


@dataclass(frozen=True)
class Race:
    """One peer, and the topics that it reads and writes."""

    stack: Stack
    peer: Peer
    task: Task

    def run(self, module: str, rate: float, seconds: float, warm_up: float) -> Latency:
        """Run the peer and measure it, after a warm-up.

        Raises:
            RuntimeError: it failed, or published more or fewer predictions than there are events.
        """
        config = replace(
            StreamConfig.from_settings(settings()),
            events_topic=self.task.events_topic,
            predictions_topic=self.task.predictions_topic,
        )
        with self._peer(module) as peer, Observer(config, rows=False) as observer, self._producer(rate) as producer:
            _wait(peer, lambda: bool(observer.published), "the first predictions")
            time.sleep(warm_up)
            began, cpu = time.time(), self._cpu_seconds(peer)
            time.sleep(seconds)
            ended, spent = time.time(), self._cpu_seconds(peer) - cpu
            producer.terminate()
            producer.wait()
            sent = sum(1 for _ in read_all(config.kafka, self.task.events_topic))
            _wait(peer, lambda: len(observer.published) >= sent, f"the predictions of {sent:,} events")
            time.sleep(1)  # a surplus would be published now
        if len(observer.published) != sent:
            raise RuntimeError(f"{module} published {len(observer.published):,} predictions of {sent:,} events.")
        latencies = observer.topic_latencies(began, ended)
        return Latency(
            events=len(latencies),
            topic=Quantiles.of(latencies),
            cores=round(spent / (ended - began), 2),
            rows=self.peer.rows,
            guarantee=self.peer.topic,
        )

    @contextmanager
    def _peer(self, module: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [self.peer.python, "-m", f"benchmarks.contenders.{module}", self.task.to_json()]
        log = Path(self.task.folder) / "log"
        with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as process:
            try:
                yield process
            except RuntimeError as error:
                raise RuntimeError(f"{module}: {error}\n{log.read_text()[-3000:]}") from error
            finally:
                # Spark's JVM ends when its parent, the Python process, does.
                process.terminate()

    @contextmanager
    def _producer(self, rate: float) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "churn_platform.cli", "produce"]
        topics = {"EVENTS_TOPIC": self.task.events_topic, "PREDICTIONS_TOPIC": self.task.predictions_topic}
        with subprocess.Popen(
            [*command, "--rate", str(rate), "--duration", str(LONGEST_SECONDS)],
            env={**os.environ, **topics},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as producer:
            try:
                yield producer
            finally:
                producer.terminate()

    def _cpu_seconds(self, peer: subprocess.Popen[bytes]) -> float:
        """Return the CPU time of the servers and of the peer's processes."""
        process = psutil.Process(peer.pid)
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        return cpu_seconds(self.stack) + sum(each.user + each.system for each in times)


def _wait(peer: subprocess.Popen[bytes], holds: Callable[[], bool], what: str) -> None:
    """Wait for a condition.

    Raises:
        RuntimeError: the peer ended, or the condition was not met in time.
    """

    def holds_or_ended() -> bool:
        if peer.poll() is not None:
            raise RuntimeError(f"It exited with {peer.returncode} before {what}.")
        return holds()

    wait_until(holds_or_ended, what)


def show(console: Console, found: dict[str, Latency]) -> None:
    """Print the results as a table, in milliseconds."""
    table = Table(
        "event to topic", "p50", "p90", "p99", "max", "cores", "on the topic", "rows", box=None, header_style="dim"
    )
    for name, latency in found.items():
        figures = (latency.topic.p50, latency.topic.p90, latency.topic.p99, latency.topic.max)
        table.add_row(
            name,
            *(f"{each:,.0f} ms" for each in figures),
            f"{latency.cores:.2f}",
            latency.guarantee,
            latency.rows or "none",
        )
    console.print(table)


def main(
    rate: Annotated[int, typer.Option(min=1, help="Events per second.")] = RATE,
    seconds: Annotated[float, typer.Option(min=5, help="Duration of each measurement.")] = SECONDS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure latency to the topic of the platform under its daemon, and of the installed peers.

    Example: make bench-peers-latency ARGS="--rate 500 --seconds 60"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(console, rate=rate, seconds=seconds)
    show(console, found)
    if json_file is not None:
        latency = {name: asdict(each) for name, each in found.items()}
        json_file.write_text(
            json.dumps({"latency": latency, "rate": rate, "machine": asdict(machine)}, indent=2) + "\n"
        )


if __name__ == "__main__":
    typer.run(main)
