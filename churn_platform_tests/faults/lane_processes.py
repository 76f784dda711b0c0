"""Processes that stream the lanes of a topic, one live run and one standby of each lane, and can be killed."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import psutil

from churn_platform.database import advisory_locks
from churn_platform_tests.stream.streams import Stream
from churn_platform_tests.waiting import wait_until

START_SECONDS: Final = 300.0  # long, because the machine may be busy with something else


class LaneProcesses:
    """The streaming processes of one stream. As a context manager it kills them at the end."""

    def __init__(
        self,
        stream: Stream,
        environment: Mapping[str, str],
        *,
        folder: Path,
        batch_seconds: float,
        standbys: bool = True,
    ) -> None:
        """Start nothing yet.

        Args:
            stream: what the processes stream.
            environment: variables of the test's servers.
            folder: for the processes' log.
            batch_seconds: duration of a batch.
            standbys: whether each lane also has a standby.
        """
        config = stream.config
        self._stream = stream
        self._log = folder / "lanes.log"
        self._environment = {
            **environment,
            "DATABASE_URL": config.dsn,
            "EVENTS_TOPIC": config.events_topic,
            "PREDICTIONS_TOPIC": config.predictions_topic,
            "STREAM_GROUP": config.kafka.group,
            "BATCH_SECONDS": str(batch_seconds),
        }
        self._lanes = 1
        self._standbys = standbys
        self._processes: list[tuple[int, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in self._processes:
            process.kill()
            process.wait()

    def start(self, lanes: int, *, within: Sequence[Sequence[str]] = ()) -> None:
        """Want so many lanes, start processes for each, and wait until each has a live run, and a standby if wanted.

        Processes of another number of lanes end by themselves. What is left of them is killed when the new runs are
        live.

        Args:
            lanes: how many.
            within: commands that run the processes of each lane, lane 0 first, on other hosts.
        """
        former = self._processes
        self._stream.want_lanes(lanes)
        self._lanes = lanes
        each = 2 if self._standbys else 1
        self._processes = []
        for lane in range(lanes):
            for _ in range(each):
                self.add(lane, within=within[lane] if within else ())
        self.wait_until_live()
        for _, process in former:
            process.kill()
            process.wait()

    def add(self, lane: int, *, within: Sequence[str] = ()) -> None:
        """Start one more process of a lane.

        Args:
            lane: its number.
            within: a command that runs the process on another host.
        """
        self._processes.append((lane, self._start(lane, within)))

    def kill_live(self, lane: int) -> None:
        """Kill the live run of a lane (kill -9) and start another process in its place."""
        found: list[tuple[int, subprocess.Popen[bytes]]] = []

        def is_live() -> bool:  # not while a batch ends and the standby takes over
            holder = self.sessions()[lane].holder
            run_id = "" if holder is None else holder.removeprefix(advisory_locks.SESSION_PREFIX)
            found[:] = [each for each in self._processes if each[0] == lane and run_id in self._runs_of(each[1])]
            return holder is not None and bool(found)

        wait_until(is_live, START_SECONDS)
        victim = found[0]
        victim[1].kill()
        victim[1].wait()
        self._processes.remove(victim)
        self.add(lane)

    def wait_until_live(self) -> None:
        """Wait until each lane has a live run, and a standby that waits for its lock if wanted."""
        wait_until(
            lambda: all(each.holder and (each.waiting or not self._standbys) for each in self.sessions()), START_SECONDS
        )

    def sessions(self) -> list[advisory_locks.LaneSessions]:
        """Return the sessions of each lane."""
        return advisory_locks.lane_sessions(self._stream.connection, self._stream.config.events_topic, self._lanes)

    def _runs_of(self, process: subprocess.Popen[bytes]) -> str:
        """Return the names of the sessions of a process, which are named after its runs."""
        ports = {each.laddr.port for each in psutil.Process(process.pid).net_connections("tcp") if each.raddr}
        rows = self._stream.connection.execute(
            "select application_name from pg_stat_activity where client_port = any(%s)", (list(ports),)
        )
        return " ".join(name for (name,) in rows)

    def _start(self, lane: int, within: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [*within, sys.executable, "-m", "churn_platform_tests.faults.streaming_process", str(lane)]
        environment = {**self._environment, "LANES": str(self._lanes)}
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)
