"""What operator conditions are decided by: readings of PostgreSQL, Kafka and the disks, taken by the resident worker.

Readings that compare with earlier ones keep them here, in memory. A worker that starts begins to compare again.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
from confluent_kafka import KafkaException

from churn_platform.database import dagster_tables, stream_layouts, stream_pauses, stream_positions
from churn_platform.database.dagster_tables import CheckExecution
from churn_platform.environments.published_offsets import published_to_admin
from churn_platform.errors import PlatformError
from churn_platform.kafka import clients
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.lanes import Lane, lanes
from churn_platform.positions.lag import Lag, read_lag, read_outcomes_waiting
from churn_platform.settings import Settings

# Time-out of a request to Kafka, in seconds. The other conditions wait for it.
KAFKA_SECONDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """From when on a measurement is a problem. The settings describe them."""

    stalled_seconds: float
    max_lag: int
    max_dead_letters: float
    daemon_silent_seconds: float
    champion_max_days: float
    disk_min_free: float

    @classmethod
    def from_settings(cls, settings: Settings) -> "Bounds":
        """Return the bounds of the settings."""
        operators = settings.operators
        return cls(
            stalled_seconds=operators.stalled_seconds,
            max_lag=operators.max_lag,
            max_dead_letters=operators.max_dead_letters,
            daemon_silent_seconds=operators.daemon_silent_seconds,
            champion_max_days=operators.champion_max_days,
            disk_min_free=operators.disk_min_free,
        )


class ProgressWatch:
    """Measures for how long nothing was read although events wait. Pure; the clock is an argument."""

    def __init__(self) -> None:
        self._read = -1
        self._since: float | None = None

    def stalled_for(self, *, read: int, waiting: int, is_paused: bool, now: float) -> float:
        """Return the seconds since the latest progress; 0 if nothing waits, or an operator has paused the stream.

        Args:
            read: sum of the positions, which progress changes.
            waiting: number of waiting events.
            is_paused: whether an operator has paused the stream.
            now: of a monotonic clock.
        """
        if waiting == 0 or is_paused or read != self._read or self._since is None:
            self._since = now
        self._read = read
        return now - self._since


@dataclass(frozen=True)
class StreamReading:
    """One look at the stream.

    Attributes:
        lag: None if Kafka did not answer, or there is no topic.
        stalled: by lane, lane 0 first: for how many seconds nothing was read although events wait.
        problem: why Kafka did not answer; empty if it did.
        unreachable_seconds: for how long it has not answered.
        unpublished: number of offsets that are read and whose predictions are not published; None if unknown.
        outcomes_waiting: number of offsets of the outcomes topic that are not read; None without such a topic.
    """

    lag: Lag | None = None
    stalled: Mapping[Lane, float] = field(default_factory=dict)
    problem: str = ""
    unreachable_seconds: float = 0.0
    unpublished: int | None = None
    outcomes_waiting: int | None = None


class StreamWatch:
    """Reads how far the stream is behind, with one client that stays connected."""

    def __init__(
        self,
        kafka_client: Mapping[str, clients.Setting],
        topic: str,
        *,
        group: str,
        outcomes_topic: str,
        request_seconds: float = KAFKA_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to nothing yet.

        Args:
            kafka_client: librdkafka settings of the brokers.
            topic: the events topic.
            group: the consumer group that carries the published offsets.
            outcomes_topic: the outcomes topic, which may be missing.
            request_seconds: time-out of a request to Kafka.
            clock: in seconds, monotonic.
        """
        self._settings = {**kafka_client, "socket.timeout.ms": round(request_seconds * 1000)}
        self._topic, self._group, self._outcomes_topic, self._clock = topic, group, outcomes_topic, clock
        self._admin: clients.Admin | None = None
        self._progress: dict[Lane, ProgressWatch] = {}
        self._answered = clock()

    def read(self, connection: psycopg.Connection) -> StreamReading:
        """Return how far the stream is behind now."""
        try:
            if self._admin is None:
                self._admin = clients.admin(self._settings)
            outcomes_waiting = read_outcomes_waiting(connection, self._admin, self._outcomes_topic)
            lag = read_lag(connection, self._admin, self._topic)
        except TopicMissingError:
            self._answered = self._clock()
            return StreamReading()
        except (PlatformError, KafkaException) as error:
            problem = error.problem if isinstance(error, PlatformError) else str(error.args[0].str())
            return StreamReading(problem=problem, unreachable_seconds=self._clock() - self._answered)
        self._answered = self._clock()
        stalled = self._stalled(connection, lag)
        unpublished = self._read_unpublished(connection, self._admin, lag)
        return StreamReading(lag, stalled, unpublished=unpublished, outcomes_waiting=outcomes_waiting)

    def _stalled(self, connection: psycopg.Connection, lag: Lag) -> dict[Lane, float]:
        """Return for how long each lane has not progressed. Others progress meanwhile, so each is watched alone."""
        is_paused = stream_pauses.paused_since(connection, self._topic) is not None
        count = stream_layouts.layout(connection, self._topic).lanes
        self._progress = {lane: self._progress.get(lane, ProgressWatch()) for lane in lanes(count)}
        return {
            lane: watch.stalled_for(
                read=sum(lane.select(lag.positions).values()),
                waiting=lag.waiting_of(lane),
                is_paused=is_paused,
                now=self._answered,
            )
            for lane, watch in self._progress.items()
        }

    def _read_unpublished(self, connection: psycopg.Connection, admin: clients.Admin, lag: Lag) -> int | None:
        """Return how many offsets are read and not published; None if Kafka does not tell this login."""
        positions = stream_positions.positions(connection, topic=self._topic)
        try:
            published = published_to_admin(admin, self._group, lag.topic)
        except (PlatformError, KafkaException):
            return None  # no condition depends on it
        return sum(
            max(0, each.next_offset - published.get(each.kafka_partition, each.first_offset))
            for each in positions
            if each.topic_id == lag.topic.topic_id
        )


class CheckWatch:
    """The latest execution of every asset check, kept in step without reading all of Dagster's history again."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], CheckExecution] = {}

    def failed(self, connection: psycopg.Connection) -> list[CheckExecution]:
        """Return the checks whose latest execution failed with the severity ERROR."""
        known_to = max((each.id for each in self._latest.values()), default=0)
        for each in dagster_tables.check_executions(connection, known_to=known_to):
            key = (each.asset_key, each.check_name)
            if key not in self._latest or self._latest[key].id <= each.id:
                self._latest[key] = each
        return [each for each in self._latest.values() if each.is_error]


def free_shares(folders: Mapping[str, Path]) -> dict[str, float]:
    """Return the free share, 0 to 1, of each disk by the name of its folder; one name for each disk.

    Args:
        folders: by name. Folders that do not exist are left out.
    """
    found: dict[str, float] = {}
    disks: set[int] = set()
    for name, folder in folders.items():
        if not folder.exists() or (disk := folder.stat().st_dev) in disks:
            continue
        disks.add(disk)
        usage = shutil.disk_usage(folder)
        # Of what a user may write, as `df` shows it: some file systems reserve a part for root.
        found[name] = usage.free / max(1, usage.used + usage.free)
    return found


class Evidence:
    """What a condition may look at. Kafka is asked once for each round, by the first condition that wants to know."""

    def __init__(self, bounds: Bounds, stream: StreamWatch, folders: Mapping[str, Path]) -> None:
        """Read nothing yet.

        Args:
            bounds: from when on a measurement is a problem.
            stream: reads how far the stream is behind.
            folders: whose disks are watched, by the setting that names them.
        """
        self.bounds = bounds
        self.checks = CheckWatch()
        self._stream, self._folders = stream, folders
        self._connection: psycopg.Connection | None = None
        self._reading: StreamReading | None = None

    def begin_round(self, connection: psycopg.Connection) -> None:
        """Forget the readings of the round before."""
        self._connection, self._reading = connection, None

    @property
    def connection(self) -> psycopg.Connection:
        """The session of this round, in autocommit mode."""
        if self._connection is None:
            raise RuntimeError("No round has begun: call begin_round() first.")
        return self._connection

    @property
    def stream(self) -> StreamReading:
        """How far the stream is behind."""
        if self._reading is None:
            self._reading = self._stream.read(self.connection)
        return self._reading

    @property
    def stream_if_read(self) -> StreamReading | None:
        """How far the stream is behind, if a condition has wanted to know in this round."""
        return self._reading

    @property
    def has_dagster(self) -> bool:
        """Whether Dagster's tables are in this database and may be read."""
        return dagster_tables.are_readable(self.connection) is True

    @property
    def free_shares(self) -> dict[str, float]:
        """The free share of each disk: see free_shares()."""
        return free_shares(self._folders)
