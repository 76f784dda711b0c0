"""A platform to break: the whole stack under its daemon, traffic on it, and what stands on both ends."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, LiteralString, Self

import psutil
import psycopg

from churn_platform.database import ledger, model_versions
from churn_platform.environments.published_offsets import published_offsets
from churn_platform.kafka import clients, topics
from churn_platform.kafka.reading import make_consumer
from churn_platform.local.ports import ANY_FREE_PORTS, is_free
from churn_platform.local.stack import DAGSTER, SERVICES, Stack
from churn_platform.local.supervision import is_supervisor, left_over
from churn_platform.positions import backlog
from churn_platform.schema.generator import generate_customers
from churn_platform.settings import load_settings
from churn_platform.simulation.producer import Mix, rows_of
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.end_to_end.running import Running
from churn_platform_tests.faults.orders import Orders
from churn_platform_tests.faults.traffic import Traffic
from churn_platform_tests.scoring.bundles import FEW_TREES, small_bundle
from churn_platform_tests.waiting import wait_until

MIX: Final = Mix(bad=0.02, duplicates=0.02, late=0.02)
# Two champions that score differently, so that a change between them shows.
CHAMPIONS: Final = {1: FEW_TREES, 2: replace(FEW_TREES, trees=12)}

# The sessions of streaming runs, and which of them holds the stream's lock (true) or waits for it (false).
_SESSIONS: Final = """
    select substr(a.application_name, length(%s) + 1), a.client_port, (
        select l.granted from pg_locks l
        where l.pid = a.pid and l.locktype = 'advisory' and l.classid = %s::integer::oid
    )
    from pg_stat_activity a
    where starts_with(a.application_name, %s) and a.client_port is not null
"""
# When the first row of an event sent after this moment became visible.
_FIRST_ROW: Final = """
    select extract(epoch from min(pg_xact_commit_timestamp(xmin)))::double precision
    from churn_predictions where event_timestamp > to_timestamp(%s) and event_timestamp < to_timestamp(%s)
"""
LONGEST_WAIT: Final = 300.0  # seconds; a machine that is busy otherwise is no fault of the platform
LEAST_BATCH_EVENTS: Final = 30_000
BATCH_SECONDS: Final = 30  # how long a batch lasts at the rate of the traffic, if that is more events
FIRST_ROW_WITHIN: Final = 10.0  # seconds; among the events of so long after the moment is the first


@dataclass(frozen=True)
class Load:
    """Traffic on a platform: events a second, and the seed that they are made by chance from."""

    rate: float
    seed: int

    @property
    def batch_events(self) -> int:
        """A batch closes at so many: late enough for a standby to be there. Tests fill one that has to end sooner."""
        return int(max(LEAST_BATCH_EVENTS, self.rate * BATCH_SECONDS))


@dataclass(frozen=True)
class Session:
    """A streaming run that PostgreSQL has a session of. `live`: it holds the stream's lock; `warm`: it waits for it."""

    run_id: str
    pid: int
    live: bool
    warm: bool


class FaultyPlatform(Running):
    """A running platform whose parts may be away, with traffic of its own and orders for its runs."""

    def __init__(self, stack: Stack, *, folder: Path, orders: Orders, load: Load) -> None:
        """Name what belongs to it.

        Args:
            stack: is up.
            folder: for its model bundles.
            orders: the stack's processes look for them.
            load: its traffic.
        """
        super().__init__(stack)
        self.folder = folder
        self.orders = orders
        self.load = load
        # Of the runs seen so far, by run id and port: finding the process that speaks from a port takes a while.
        self._pids: dict[tuple[str, int], int] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        addresses = self.stack.addresses
        settings = load_settings().with_servers(kafka=addresses["kafka"], postgres=addresses["postgres"])
        self.config = StreamConfig.from_settings(settings)
        self.admin = clients.admin(self.config.kafka.client)
        customers = rows_of(generate_customers(1_500, seed=self.load.seed))
        self.traffic = Traffic(self.config, customers, rate=self.load.rate, mix=MIX, seed=self.load.seed)
        self._make_champions()
        return self

    def __exit__(self, *details: object) -> None:
        self.orders.withdraw()
        super().__exit__(*details)

    # Models

    def bundle(self, version: int) -> Path:
        """Folder of a version's bundle."""
        return self.folder / f"bundle-{version}"

    def _make_champions(self) -> None:
        for version, hyperparameters in CHAMPIONS.items():
            small_bundle(hyperparameters).save(str(self.bundle(version)))
            model_versions.register(
                self.connection,
                version=version,
                uri=str(self.bundle(version)),
                run_id=f"training {version}",
                metrics={},
            )
        model_versions.promote(self.connection, 1)

    # PostgreSQL, which may be away

    def rows(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of a query, on a new connection when the last one was lost.

        Raises:
            psycopg.OperationalError: PostgreSQL is away.
        """
        if not self.connection.closed:
            try:
                return super().rows(query, *parameters)
            except psycopg.OperationalError:
                if not self.connection.closed:
                    raise
        self.connection = psycopg.connect(self.stack.addresses["postgres"], autocommit=True, connect_timeout=5)
        return super().rows(query, *parameters)

    def holds(self, query: LiteralString, *parameters: object) -> bool:
        """Whether a query gives true. While PostgreSQL is away it does not."""
        try:
            return bool(self.value(query, *parameters))
        except psycopg.OperationalError:
            return False

    # Its runs

    def sessions(self) -> list[Session]:
        """The streaming runs that PostgreSQL has a session of; none while it is away."""
        try:
            found = self.rows(_SESSIONS, ledger.SESSION_PREFIX, ledger.STREAM_LOCK, ledger.SESSION_PREFIX)
        except psycopg.OperationalError:
            return []
        if any((run_id, port) not in self._pids for run_id, port, _ in found):
            speaking = self._speaking()
            self._pids |= {(run_id, port): speaking[port] for run_id, port, _ in found if port in speaking}
        return [
            Session(run_id, self._pids[run_id, port], live=granted is True, warm=granted is False)
            for run_id, port, granted in found
            if (run_id, port) in self._pids
        ]

    def _speaking(self) -> dict[int, int]:
        """Processes of the stack, by the ports that they speak from."""
        found: dict[int, int] = {}
        for process in left_over(self.stack.local):
            try:
                found |= {each.laddr.port: process.pid for each in process.net_connections("tcp") if each.raddr}
            except psutil.NoSuchProcess:
                continue  # it ended while we looked
        return found

    def live(self, *, timeout: float = LONGEST_WAIT) -> Session:
        """The run that holds the lock; waits until there is one that has committed something."""
        found: list[Session] = []

        def streams() -> bool:
            found[:] = [session for session in self.sessions() if session.live]
            return bool(found) and self.holds(
                "select exists (select from stream_batches where run_id = %s and opened is not null)", found[0].run_id
            )

        wait_until(streams, timeout, "a run to stream")
        return found[0]

    def standby(self, *, timeout: float = LONGEST_WAIT) -> Session:
        """A warm run that waits for the lock; waits until there is one."""
        found: list[Session] = []

        def waits() -> bool:
            sessions = self.sessions()
            found[:] = [session for session in sessions if session.warm]
            return bool(found) and any(session.live for session in sessions)

        wait_until(waits, timeout, "a standby to wait for the lock")
        return found[0]

    def fill_batch(self) -> None:
        """Send so much that the open batch ends and the next one begins."""
        self.traffic.send(self.load.batch_events)

    def get_a_new_run(self) -> None:
        """End the open batch, and wait until another run has been asked for, launched and warmed up."""
        known = {session.run_id for session in self.sessions()}
        self.fill_batch()
        wait_until(
            lambda: any(session.run_id not in known for session in self.sessions()),
            LONGEST_WAIT,
            "a new run to be warm",
        )

    # Its parts

    def ready(self) -> bool:
        """Whether every part answers."""
        return all(self.stack.is_ready(name) for name in (*SERVICES, *DAGSTER))

    def kill_everything(self) -> None:
        """kill -9 of every process, as a machine that loses its power; nothing starts anything again."""
        processes = left_over(self.stack.local)
        supervisors = [process for process in processes if is_supervisor(process)]
        below = [child for each in supervisors for child in each.children(recursive=True)]
        everything = [process.pid for process in (*supervisors, *below, *processes)]
        for pid in everything:
            kill(pid)
        # A process is dead a moment before its ports are free, and a machine that starts finds them free.
        ports = json.loads((self.stack.local / "ports.json").read_text()).values()
        wait_until(lambda: all(map(ended, everything)) and all(map(is_free, ports)), LONGEST_WAIT, "all to be dead")

    # What stands at its ends

    def first_row_after(self, moment: float) -> float | None:
        """When the first row of an event sent after this moment became visible, both in seconds since 1970."""
        self.traffic.check()
        try:
            seconds: float | None = self.value(_FIRST_ROW, moment, moment + FIRST_ROW_WITHIN)
        except psycopg.OperationalError:
            return None
        return seconds

    def wait_for_row_after(self, moment: float, *, timeout: float = LONGEST_WAIT) -> float:
        """Wait for that row."""
        wait_until(lambda: self.first_row_after(moment) is not None, timeout, "the row of a new event")
        seconds = self.first_row_after(moment)
        assert seconds is not None
        return seconds

    def waiting(self) -> int:
        """Offsets that wait to be read."""
        return backlog.load_backlog(self.connection, self.admin, self.config).waiting

    def all_published(self) -> bool:
        """Whether the published_offsets stand where the ledger does."""
        topic = topics.describe(self.admin, self.config.events_topic)
        consumer = make_consumer(self.config.kafka)
        try:
            published = published_offsets(consumer, topic, seconds=10)
        finally:
            consumer.close()
        positions = ledger.positions_of(self.connection, topic.topic_id)
        return all(published.get(partition, 0) >= position for partition, position in positions.items() if position)

    def settle(self) -> None:
        """End the traffic and wait until everything sent is read and published."""
        self.traffic.stop()
        sent = self.traffic.sent.messages
        wait_until(
            lambda: self.holds("select coalesce(sum(events), 0) >= %s from stream_batches", sent),
            LONGEST_WAIT,
            f"all {sent} events to be read",
        )
        wait_until(self.all_published, LONGEST_WAIT, "everything to be published")

    def come_to_rest(self) -> None:
        """Settle, and wait until every batch is closed and reported, and every hour and day up to date."""
        self.settle()
        wait_until(self.at_rest, LONGEST_WAIT, "every batch to be closed and reported, every hour and day computed")


def kill(pid: int) -> float:
    """kill -9; when, in seconds since 1970. A process that has just ended by itself is fine, too."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return time.time()
    return time.time()


def ended(pid: int) -> bool:
    """Whether a process is no more, or nothing but its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def faulty_platform(folder: Path, given: dict[str, str], load: Load) -> Iterator[FaultyPlatform]:
    """A platform of its own in this folder, up while the context lasts.

    Args:
        folder: another user may pass through it: PostgreSQL runs as one under root.
        given: the environment to build on.
        load: its traffic.
    """
    settings = {
        "BATCH_EVENTS": str(load.batch_events),
        "LINGER_MS": "100",  # a tenth of the commits, which are most of the work at this rate
        "METRICS_SECONDS": "0",
        "STANDBY": "true",
    }
    orders = Orders(folder / "orders")
    stack = Stack(
        folder / "local",
        usual_ports=ANY_FREE_PORTS,
        given=orders.environment({**given, **settings}),
        env_file=Path(os.devnull),
    )
    with stack, FaultyPlatform(stack, folder=folder, orders=orders, load=load) as platform:
        yield platform
        platform.traffic.stop()
