"""Throughput: a backlog of events, processed by the platform, a reference loop and others on the same servers.

Example: python -m benchmarks.throughput --events 400000 --sizes 10000
"""

import json
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Final

import psycopg
import typer
from confluent_kafka import IsolationLevel
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.contenders.task import Task
from benchmarks.machine import this_machine
from benchmarks.servers import new_database, own_stack
from churn_platform.database import stream_pauses
from churn_platform.kafka import clients, topics
from churn_platform.kafka.reading import read_all
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig

ROOT: Final = Path(__file__).parents[1]
PEERS_PYTHON: Final = ROOT / ".venv-peers" / "bin" / "python"
PEERS: Final = {"quix": "Quix Streams", "bytewax": "Bytewax", "spark": "Spark"}
TOPIC_ONLY: Final = {"kafka_streams": "Kafka Streams"}
"""Peers that publish predictions but write no rows, in the platform's environment."""
PEER_COMMIT: Final = 10_000
EVENTS: Final = 400_000
SIZES: Final = (1_000, 10_000, 100_000)
DAEMON_EVENTS: Final = 1_000_000
PEER_EVENTS: Final = 100_000
LONGEST_SECONDS: Final = 900
POLL_SECONDS: Final = 0.25
DAEMON_TOPIC: Final = "waiting-for-daemon"

# Time of each commit and its number of rows.
_COMMITS: Final = """
    select extract(epoch from pg_xact_commit_timestamp(xmin))::double precision as moment, count(*)
    from churn_predictions group by 1 order by 1
"""


@dataclass(frozen=True)
class Drain:
    """How a contender processed the backlog.

    Attributes:
        events: number of events.
        commits: number of PostgreSQL transactions.
        seconds: from the first PostgreSQL transaction to the end.
        events_per_second: of rows and predictions, without those of the first transaction.
        published_per_second: of predictions alone, from the first one's time on the topic to the last one's.
    """

    events: int
    commits: int
    seconds: float
    events_per_second: float
    published_per_second: float


@dataclass
class Throughput:
    """Events per second: by commit size for the loop and the reference, of the daemon, and of each peer.

    Those in `topic_only` are of the topic alone: of peers without rows, and of the loop, without its rows.
    """

    loop: dict[str, float] = field(default_factory=dict)
    reference: dict[str, float] = field(default_factory=dict)
    daemon: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    topic_only: dict[str, float] = field(default_factory=dict)


class Contest:
    """The servers that all contenders use, each with a separate database and output topic."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self._bundle = work.trained_bundle(stack.local / "bundle")
        self._customers = work.customers()

    def fill(self, topic: str, count: int) -> None:
        """Create a topic with a backlog of events."""
        with self._progress(f"{count:,} events sent to {topic}"):
            work.create_topic(topic)
            work.fill(topic, self._customers, count)

    def contend(
        self, module: str, topic: str, *, events: int, commit_events: int, python: str = sys.executable
    ) -> Drain:
        """Run a contender on the topic and measure it. Task describes what it receives.

        Raises:
            RuntimeError: see measure().
        """
        task = self.task(module, topic, events=events, commit_events=commit_events)
        return self.measure(module, task, python=python)

    def measure(self, module: str, task: Task, *, python: str = sys.executable) -> Drain:
        """Run a contender on its task and measure it.

        Raises:
            RuntimeError: it failed, or wrote more or fewer rows or predictions than there are events.
        """
        run(module, task, python=python)
        return self._result(
            task.group, task.dsn, task.predictions_topic, task.events, rows=0 if module in TOPIC_ONLY else task.events
        )

    def task(self, module: str, topic: str, *, events: int, commit_events: int) -> Task:
        """Create what a contender needs: a database with the champion, an output topic and a folder."""
        name = f"{module}_{commit_events}"
        task = Task(
            brokers=self._stack.addresses["kafka"],
            dsn=new_database(self._stack, name),
            events_topic=topic,
            predictions_topic=f"predictions-{name}",
            group=name,
            bundle=self._bundle,
            events=events,
            commit_events=commit_events,
            folder=str(self._stack.local / name),
        )
        Path(task.folder).mkdir()
        work.promote(task.dsn, self._bundle)
        work.create_topic(task.predictions_topic)
        return task

    def daemon(self, events: int) -> Drain:
        """Measure the platform on a backlog, with Dagster's daemon and all its runs."""
        config = StreamConfig.from_settings(settings())
        work.promote(config.dsn, self._bundle)
        with psycopg.connect(config.dsn, autocommit=True) as connection:
            stream_pauses.pause(connection, config.events_topic)
            with self._progress("Dagster started"):
                self._stack.configuration.services_only = False
                self._stack.start()
            with self._progress(f"{events:,} events sent to {config.events_topic}"):
                work.fill(config.events_topic, self._customers, events)
            stream_pauses.resume(connection, config.events_topic)
            admin, deadline = clients.admin(config.kafka.client), time.monotonic() + LONGEST_SECONDS
            while not _is_drained(connection, admin, config.predictions_topic, events):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"The daemon had not drained {events:,} events after {LONGEST_SECONDS} s.")
                time.sleep(POLL_SECONDS)
        return self._result("daemon", config.dsn, config.predictions_topic, events, rows=events)

    def _result(self, name: str, dsn: str, predictions_topic: str, events: int, *, rows: int) -> Drain:
        with psycopg.connect(dsn, autocommit=True) as connection:
            commits = [(float(moment), int(rows)) for moment, rows in connection.execute(_COMMITS)]
        written = sum(each for _, each in commits)
        config = StreamConfig.from_settings(settings())
        published = sorted(message.timestamp()[1] / 1000 for message in read_all(config.kafka, predictions_topic))
        if (written, len(published)) != (rows, events):
            raise RuntimeError(
                f"{name} wrote {written:,} rows and {len(published):,} predictions of {events:,} events, expected "
                f"{rows:,} rows and {events:,} predictions."
            )
        # The predictions of the first millisecond are the start of the measurement, like the rows of the first commit.
        on_the_topic = (events - bisect_right(published, published[0])) / (published[-1] - published[0])
        if rows:
            (began, first), last = commits[0], commits[-1][0]
            seconds = max(last, published[-1]) - began
            rate = (events - first) / seconds
        else:
            seconds, rate = published[-1] - published[0], on_the_topic
        drain = Drain(events, len(commits), seconds, rate, on_the_topic)
        self._console.print(
            f"{name}: {rate:,.0f} events/s ({len(commits)} commits, {seconds:.1f} s; {on_the_topic:,.0f} of the topic)",
            style="dim",
        )
        return drain

    @contextmanager
    def _progress(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._console.print(f"{what}: {time.monotonic() - began:.0f} s", style="dim", highlight=False)


def run(module: str, task: Task, *, python: str) -> None:
    """Run a contender until it has processed its task.

    Raises:
        RuntimeError: it failed.
    """
    result = subprocess.run(
        [python, "-m", f"benchmarks.contenders.{module}", task.to_json()],
        cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(
            f"{task.group} exited with {result.returncode}:\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
        )


def _is_drained(connection: psycopg.Connection, admin: AdminClient, predictions_topic: str, events: int) -> bool:
    row = connection.execute("select coalesce(sum(events), 0) from stream_batches").fetchone()
    if row is None or row[0] < events:
        return False
    topic = topics.describe(admin, predictions_topic)
    ends = topics.list_offsets(admin, topic, topics.LATEST, isolation=IsolationLevel.READ_COMMITTED)
    return sum(ends.values()) > events  # transaction markers take offsets too


def measure(
    console: Console,
    *,
    events: int = EVENTS,
    sizes: Sequence[int] = SIZES,
    daemon_events: int = DAEMON_EVENTS,
    peer_events: int = PEER_EVENTS,
) -> Throughput:
    """Measure all on separate servers. 0 events leave out the daemon or the peers, as does a missing .venv-peers."""
    found = Throughput()
    with own_stack({"EVENTS_TOPIC": DAEMON_TOPIC}) as stack:
        contest = Contest(stack, console)
        contest.fill("waiting", events)
        for size in sizes:
            for module, rates in (("reference", found.reference), ("loop", found.loop)):
                drain = contest.contend(module, "waiting", events=events, commit_events=size)
                rates[str(size)] = drain.events_per_second
                if module == "loop":
                    found.topic_only[f"commit loop, commits of {size:,}"] = drain.published_per_second
        if peer_events and PEERS_PYTHON.exists():
            for module, title in TOPIC_ONLY.items():
                drain = contest.contend(module, "waiting", events=events, commit_events=PEER_COMMIT)
                found.topic_only[title] = drain.published_per_second
            contest.fill("waiting-for-peers", peer_events)
            for module, title in PEERS.items():
                drain = contest.contend(
                    module, "waiting-for-peers", events=peer_events, commit_events=PEER_COMMIT, python=str(PEERS_PYTHON)
                )
                found.peers[title] = drain.events_per_second
        if daemon_events:
            found.daemon = contest.daemon(daemon_events).events_per_second
    return found


def show(console: Console, found: Throughput) -> None:
    """Print the results as a table, with ratios to the reference loop."""
    table = Table(
        "events a second", *(f"commits of {int(size):,}" for size in found.loop), box=None, header_style="dim"
    )
    for name, rates in (("reference loop", found.reference), ("commit loop", found.loop)):
        table.add_row(name, *(f"{rate:,.0f} ({rate / found.reference[size]:.2f})" for size, rate in rates.items()))
    console.print(table)
    others = {"under the daemon": found.daemon, **found.peers}
    for name, rate in others.items():
        if rate is not None:
            console.print(f"{name}: {rate:,.0f}", highlight=False)
    for name, rate in found.topic_only.items():
        console.print(f"predictions on the topic, rows not counted: {name}: {rate:,.0f}", highlight=False)


def main(
    events: Annotated[int, typer.Option(min=1, help="Backlog of each loop, in events.")] = EVENTS,
    sizes: Annotated[str, typer.Option(help="Events per commit.")] = ",".join(map(str, SIZES)),
    daemon_events: Annotated[int, typer.Option(help="Backlog of the daemon; 0 leaves it out.")] = DAEMON_EVENTS,
    peer_events: Annotated[int, typer.Option(help="Backlog of each peer; 0 leaves them out.")] = PEER_EVENTS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Process a backlog by the reference loop, the commit loop, the installed peers, and the daemon.

    Example: make bench-throughput ARGS="--events 100000 --sizes 10000 --daemon-events 0"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(
        console,
        events=events,
        sizes=[int(size) for size in sizes.split(",")],
        daemon_events=daemon_events,
        peer_events=peer_events,
    )
    show(console, found)
    if json_file is not None:
        json_file.write_text(json.dumps({"throughput": asdict(found), "machine": asdict(machine)}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
