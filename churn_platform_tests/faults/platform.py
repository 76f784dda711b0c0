"""The platform that faults are injected into: the whole stack with its daemon, and traffic."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, LiteralString, Self

import psutil
import psycopg

from churn_platform.database import advisory_locks, model_versions, stream_positions
from churn_platform.environments.published_offsets import published_offsets
from churn_platform.kafka import clients, topics
from churn_platform.kafka.reading import make_consumer
from churn_platform.local.configuration import PLATFORM, SERVICES
from churn_platform.local.ports import ANY_FREE_PORTS, is_free
from churn_platform.local.stack import Stack
from churn_platform.local.supervision import is_supervisor, left_over
from churn_platform.model_store import save_bundle
from churn_platform.positions import backlog
from churn_platform.schema.generator import generate_customers
from churn_platform.settings import load_settings
from churn_platform.simulation.producer import Mix, rows_of
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.end_to_end.running import Running
from churn_platform_tests.faults.injection import FaultInjector
from churn_platform_tests.faults.traffic import Traffic
from churn_platform_tests.scoring.bundles import FEW_TREES, small_bundle
from churn_platform_tests.waiting import wait_until

MIX: Final = Mix(bad=0.02, duplicates=0.02, late=0.02)
# Two champions with different scores, so that a change between them is visible.
CHAMPIONS: Final = {1: FEW_TREES, 2: replace(FEW_TREES, trees=12)}

# The sessions of streaming runs, and whether each holds the stream's lock (true) or waits for it (false).
_SESSIONS: Final = """
    select substr(a.application_name, length(%s) + 1), a.client_port, (
        select bool_or(l.classid = %s::integer::oid) from pg_locks l
        where l.pid = a.pid and l.locktype = 'advisory' and l.classid in (%s::integer::oid, %s::integer::oid)
    )
    from pg_stat_activity a
    where starts_with(a.application_name, %s) and a.client_port is not null
"""
# When the first row of an event sent after this moment became visible.
_FIRST_ROW: Final = """
    select extract(epoch from min(pg_xact_commit_timestamp(xmin)))::double precision
    from churn_predictions where event_timestamp > to_timestamp(%s) and event_timestamp < to_timestamp(%s)
"""
TIMEOUT: Final = 300.0  # seconds; long, because the machine may be busy with something else
MIN_BATCH_EVENTS: Final = 30_000
BATCH_SECONDS: Final = 30  # minimum duration of a batch at the rate of the traffic
FIRST_ROW_WITHIN: Final = 10.0  # seconds after the fault in which the first visible event was sent


@dataclass(frozen=True)
class Load:
    """Traffic on a platform: events per second, and the seed of their random values."""

    rate: float
    seed: int

    @property
    def batch_events(self) -> int:
        """Events after which a batch closes: enough time for a standby to be ready. Tests may fill it sooner."""
        return int(max(MIN_BATCH_EVENTS, self.rate * BATCH_SECONDS))


@dataclass(frozen=True)
class Session:
    """A streaming run with a session in PostgreSQL. A live run holds the stream's lock; a warm one waits for it."""

    run_id: str
    pid: int
    live: bool
    warm: bool


class FaultyPlatform(Running):
    """A running platform with traffic and fault injection, whose parts may be down."""

    def __init__(self, stack: Stack, *, folder: Path, injector: FaultInjector, load: Load) -> None:
        """Create the platform.

        Args:
            stack: a running stack.
            folder: folder for model bundles.
            injector: injects faults into the stack's processes.
            load: the traffic.
        """
        super().__init__(stack)
        self.folder = folder
        self.injector = injector
        self.load = load
        # Process ids by run id and port, because finding the process that uses a port takes a while.
        self._pids: dict[tuple[str, int], int] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        addresses = self.stack.addresses
        settings = load_settings().with_servers(kafka=addresses["kafka"], postgres=addresses["postgres"])
        self.config = StreamConfig.from_settings(settings)
        self.admin = clients.admin(self.config.kafka.client)
        customers = rows_of(generate_customers(1_500, seed=self.load.seed), self.config.schema)
        self.traffic = Traffic(self.config, customers, rate=self.load.rate, mix=MIX, seed=self.load.seed)
        return self

    def __exit__(self, *details: object) -> None:
        self.injector.disarm()
        super().__exit__(*details)

    # Models

    def bundle(self, version: int) -> Path:
        """Return the folder of a version's bundle."""
        return self.folder / f"bundle-{version}"

    def create_champions(self) -> None:
        """Register CHAMPIONS, and promote version 1."""
        for version, hyperparameters in CHAMPIONS.items():
            save_bundle(small_bundle(hyperparameters), str(self.bundle(version)))
            model_versions.register(
                self.connection,
                version=version,
                uri=str(self.bundle(version)),
                run_id=f"training {version}",
                metrics={},
            )
        model_versions.promote(self.connection, 1)

    # PostgreSQL, which may be down

    def rows(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query. Opens a new connection if the last one was lost.

        Raises:
            psycopg.OperationalError: PostgreSQL is down.
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
        """Return whether a query returns true. While PostgreSQL is down, it does not."""
        try:
            return bool(self.value(query, *parameters))
        except psycopg.OperationalError:
            return False

    # Runs

    def sessions(self) -> list[Session]:
        """Return the streaming runs with a session in PostgreSQL; none while it is down."""
        try:
            found = self.rows(
                _SESSIONS,
                advisory_locks.SESSION_PREFIX,
                advisory_locks.STREAM_LOCK,
                advisory_locks.STREAM_LOCK,
                advisory_locks.STANDBY_LOCK,
                advisory_locks.SESSION_PREFIX,
            )
        except psycopg.OperationalError:
            return []
        if any((run_id, port) not in self._pids for run_id, port, _ in found):
            pids = self._pids_by_port()
            self._pids |= {(run_id, port): pids[port] for run_id, port, _ in found if port in pids}
        return [
            Session(run_id, self._pids[run_id, port], live=granted is True, warm=granted is False)
            for run_id, port, granted in found
            if (run_id, port) in self._pids
        ]

    def _pids_by_port(self) -> dict[int, int]:
        """Return the process ids of the stack by the local ports of their connections."""
        found: dict[int, int] = {}
        for process in left_over(self.stack.local):
            try:
                found |= {each.laddr.port: process.pid for each in process.net_connections("tcp") if each.raddr}
            except psutil.NoSuchProcess:
                continue  # it has just ended
        return found

    def live(self, *, timeout: float = TIMEOUT) -> Session:
        """Wait for a run that holds the lock and has opened a batch, and return it."""
        found: list[Session] = []

        def streams() -> bool:
            found[:] = [session for session in self.sessions() if session.live]
            return bool(found) and self.holds(
                "select exists (select from stream_batches where run_id = %s and opened is not null)", found[0].run_id
            )

        wait_until(streams, timeout, "a run to stream")
        return found[0]

    def standby(self, *, timeout: float = TIMEOUT) -> Session:
        """Wait for a standby that waits for the lock, and return it."""
        found: list[Session] = []

        def waits() -> bool:
            sessions = self.sessions()
            found[:] = [session for session in sessions if session.warm]
            return bool(found) and any(session.live for session in sessions)

        wait_until(waits, timeout, "a standby to wait for the lock")
        return found[0]

    def fill_batch(self) -> None:
        """Send enough events to end the open batch and start the next one."""
        self.traffic.send(self.load.batch_events)

    def get_a_new_run(self) -> None:
        """End the open batch, and wait until another run has been requested, launched and warmed up."""
        known = {session.run_id for session in self.sessions()}
        self.fill_batch()
        wait_until(
            lambda: any(session.run_id not in known for session in self.sessions()),
            TIMEOUT,
            "a new run to be warm",
        )

    # Its parts

    def ready(self) -> bool:
        """Return whether every part answers."""
        return all(self.stack.is_ready(name) for name in (*SERVICES, *PLATFORM))

    def kill_everything(self) -> None:
        """Kill every process (kill -9), as a power failure does. Nothing is restarted."""
        processes = left_over(self.stack.local)
        supervisors = [process for process in processes if is_supervisor(process)]
        below = [child for each in supervisors for child in each.children(recursive=True)]
        everything = [process.pid for process in (*supervisors, *below, *processes)]
        for pid in everything:
            kill(pid)
        # Ports become free shortly after a process has died. After a real restart of the machine, they are free.
        ports = json.loads((self.stack.local / "ports.json").read_text()).values()
        wait_until(lambda: all(map(ended, everything)) and all(map(is_free, ports)), TIMEOUT, "all to be dead")

    # Results

    def first_row_after(self, moment: float) -> float | None:
        """Return when the first row of an event sent after this time became visible, both in seconds since 1970."""
        self.traffic.check()
        try:
            seconds: float | None = self.value(_FIRST_ROW, moment, moment + FIRST_ROW_WITHIN)
        except psycopg.OperationalError:
            return None
        return seconds

    def wait_for_row_after(self, moment: float, *, timeout: float = TIMEOUT) -> float:
        """Wait for that row, and return when it became visible."""
        wait_until(lambda: self.first_row_after(moment) is not None, timeout, "the row of a new event")
        seconds = self.first_row_after(moment)
        assert seconds is not None
        return seconds

    def lag(self) -> int:
        """Return the lag of the stream in offsets."""
        return backlog.load_backlog(self.connection, self.admin, self.config).waiting

    def all_published(self) -> bool:
        """Return whether the published offsets have reached the ledger's positions."""
        topic = topics.describe(self.admin, self.config.events_topic)
        consumer = make_consumer(self.config.kafka)
        try:
            published = published_offsets(consumer, topic, seconds=10)
        finally:
            consumer.close()
        positions = stream_positions.next_offsets(self.connection, topic.topic_id)
        return all(published.get(partition, 0) >= position for partition, position in positions.items() if position)

    def settle(self) -> None:
        """Stop the traffic and wait until everything that was sent is read and published."""
        self.traffic.stop()
        sent = self.traffic.sent.messages
        wait_until(
            lambda: self.holds("select coalesce(sum(events), 0) >= %s from stream_batches", sent),
            TIMEOUT,
            f"all {sent} events to be read",
        )
        wait_until(self.all_published, TIMEOUT, "everything to be published")

    def become_idle(self) -> None:
        """Settle, and wait until every batch is closed and reported and all metrics are up to date."""
        self.settle()
        try:
            wait_until(self.is_idle, TIMEOUT, "every batch to be closed and reported, every hour and day computed")
        except AssertionError as error:
            raise AssertionError(f"{error} Unfinished: {self.unfinished()}.") from None


def kill(pid: int) -> float:
    """Kill a process (kill -9) unless it has just ended, and return when, in seconds since 1970."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return time.time()
    return time.time()


def ended(pid: int) -> bool:
    """Return whether a process has ended. It may remain as a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def faulty_platform(
    folder: Path,
    given: dict[str, str],
    load: Load,
    *,
    create_champion: Callable[[FaultyPlatform], None] = FaultyPlatform.create_champions,
) -> Iterator[FaultyPlatform]:
    """Run a separate platform in this folder while the context lasts.

    Args:
        folder: traversable for other users, because under root PostgreSQL runs as another user.
        given: the environment to extend.
        load: the traffic.
        create_champion: makes the platform able to score.
    """
    settings = {
        "BATCH_EVENTS": str(load.batch_events),
        "BATCH_SECONDS": "60",  # a test ends when the last batch is closed
        "STREAM_PROFILE": "economy",  # a quarter of the usual commits, which are most of the work at this rate
        "METRICS_SECONDS": "0",
        "STANDBY": "true",
    }
    injector = FaultInjector(folder / "faults")
    stack = Stack(
        folder / "local",
        usual_ports=ANY_FREE_PORTS,
        given=injector.environment({**given, **settings}),
        env_file=Path(os.devnull),
    )
    with stack, FaultyPlatform(stack, folder=folder, injector=injector, load=load) as platform:
        create_champion(platform)
        yield platform
        platform.traffic.stop()
