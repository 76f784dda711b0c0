"""Supervision of the servers by supervisord, controlled over a socket that only its owner can open."""

import configparser
import hashlib
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from churn_platform.local.environment import STACK_MARKER
from churn_platform.local.errors import StackError
from churn_platform.local.part import Part

SOCKET_PATH_LIMIT = 100  # bytes; the kernel's own limit is 104 on macOS, 108 on Linux
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+~ -]+")
LOG_BYTES = 5 * 1024 * 1024
LOG_BACKUPS = 2

# supervisord answers within milliseconds, on a busy machine within two seconds. Without an answer, commands fail then.
ANSWER_SECONDS = 8

RUNNING = frozenset({"RUNNING", "STARTING"})
FAILED = frozenset({"BACKOFF", "FATAL", "EXITED", "UNKNOWN"})


class SupervisorSilentError(StackError):
    """The supervisord process runs but does not answer."""

    def __init__(self, pid: int | None, *, is_stopped: bool) -> None:
        """Name the process.

        Args:
            pid: of supervisord; None if it is unknown.
            is_stopped: whether a signal has stopped it.
        """
        process = "its process id is not known" if pid is None else f"process {pid}"
        stopped = ". A signal has stopped it (SIGSTOP)" if is_stopped else ""
        number = "<its process id>" if pid is None else str(pid)
        super().__init__(
            f"supervisord ({process}), which runs the servers, has not answered for {ANSWER_SECONDS} s{stopped}.",
            remedy=f"Continue it with 'kill -CONT {number}' and run the command again. If it still does not answer, "
            f"end it with 'kill -KILL {number}', then run 'churn down', which ends the servers that are left.",
        )


class _TimedConnection(HTTPConnection):
    """HTTP over the socket of supervisord, with ANSWER_SECONDS as its timeout."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class ProcessState:
    """The state of one server as supervisord reports it."""

    name: str
    state: str
    pid: int | None
    since: float
    """When it last started, in seconds since the epoch."""
    problem: str


def runtime_folder(local: Path) -> Path:
    """Return the folder of the sockets: in the stack's folder, or a short path in the temporary folder.

    The short path is used if the stack's path is too long for a socket, or if gRPC, which reads it as a URI, would
    misread it.

    Raises:
        StackError: the short path exists and belongs to another user.
    """
    near = local / "run"
    short = len(os.fsencode(near / "supervisor.sock.1234567")) <= SOCKET_PATH_LIMIT
    if short and PLAIN_PATH.fullmatch(str(near)):
        folder = near
    else:
        folder = Path(tempfile.gettempdir()) / f"churn-{hashlib.sha256(os.fsencode(local)).hexdigest()[:12]}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StackError(
            f"{folder} belongs to another user, and the stack's control socket would be in it.",
            remedy=f"Remove {folder}, or set TMPDIR to a folder of your own.",
        )
    folder.chmod(0o700)
    return folder


class Supervisor:
    """One supervisord and the servers it runs."""

    def __init__(self, local: Path) -> None:
        """Set the paths of its files.

        Args:
            local: the stack's folder.
        """
        self._local = local
        self._runtime = runtime_folder(local)
        self.logs = local / "logs"
        self._configuration = self._runtime / "supervisord.conf"
        self._socket = self._runtime / "supervisor.sock"

    @property
    def runtime(self) -> Path:
        """Folder of the sockets."""
        return self._runtime

    def log_file(self, name: str) -> Path:
        """Log of a server."""
        return self.logs / f"{name}.log"

    def _call(self, method: str, *arguments: object) -> object:
        from supervisor.xmlrpc import SupervisorTransport

        # A new connection each time, because several threads call.
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        transport._get_connection = lambda: _TimedConnection(str(self._socket))
        try:
            proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        except (TimeoutError, BlockingIOError) as error:  # the latter if many connections are pending
            raise self._silence() from error
        finally:
            transport.close()

    def _silence(self) -> "SupervisorSilentError":
        try:
            pid = int((self._runtime / "supervisord.pid").read_text())
        except (OSError, ValueError):
            return SupervisorSilentError(None, is_stopped=False)
        try:
            is_stopped = psutil.Process(pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            is_stopped = False
        return SupervisorSilentError(pid, is_stopped=is_stopped)

    def answers(self) -> bool:
        """Return whether supervisord runs.

        Raises:
            SupervisorSilentError: it runs, but does not answer.
        """
        if not self._socket.exists():
            return False
        try:
            self._call("getState")
        except (OSError, HTTPException, xmlrpc.client.Error):
            return False
        return True

    def _answers_yet(self) -> bool:
        with suppress(SupervisorSilentError):
            return self.answers()
        return False

    def launch(self, parts: Sequence[Part], environment: Mapping[str, str]) -> None:
        """Start supervisord with every server configured and none started.

        Args:
            parts: the servers.
            environment: of supervisord and all its children. Secrets go here, never into a file or a command line.

        Raises:
            StackError: it does not start.
        """
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        self._configuration.write_text(self._render(parts), encoding="utf-8")
        command = (sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration))
        outcome = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
        if outcome.returncode != 0 or not _wait(self._answers_yet, seconds=15):
            raise StackError(
                f"supervisord did not start (exit code {outcome.returncode}).",
                remedy=f"See {self.logs / 'supervisord.log'}.",
                details=(outcome.stdout + outcome.stderr).strip(),
            )

    def _render(self, parts: Sequence[Part]) -> str:
        sections: dict[str, dict[str, object]] = {
            "unix_http_server": {"file": self._socket, "chmod": "0700"},
            "supervisord": {
                "logfile": self.logs / "supervisord.log",
                "logfile_maxbytes": LOG_BYTES,
                "logfile_backups": 1,
                "pidfile": self._runtime / "supervisord.pid",
                "childlogdir": self.logs,
                "umask": "077",
            },
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
        }
        if os.geteuid() == 0:
            sections["supervisord"]["user"] = "root"  # it warns if this is missing
        for part in parts:
            sections[f"program:{part.name}"] = {
                "command": shlex.join(part.command),
                "directory": part.folder,
                "autostart": "false",  # Startup starts each as soon as what it needs is complete
                "autorestart": "true",
                "startsecs": 1,
                "startretries": 30,
                "stopsignal": part.stop_signal.name.removeprefix("SIG"),
                "stopwaitsecs": part.stop_seconds,
                "stopasgroup": str(part.stop_with_children).lower(),
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": str(self.log_file(part.name)).replace(
                    "%", "%%"
                ),  # supervisord expands this value twice
                "stdout_logfile_maxbytes": LOG_BYTES,
                "stdout_logfile_backups": LOG_BACKUPS,
            }
            if part.user is not None:
                sections[f"program:{part.name}"]["user"] = part.user
            if part.environment:
                sections[f"program:{part.name}"]["environment"] = ",".join(
                    f'{name}="{value}"' for name, value in part.environment.items()
                )
        for values in sections.values():
            for value in values.values():
                _require_no_comment(str(value))
        parser = configparser.RawConfigParser()
        parser.read_dict(
            {
                section: {name: str(value).replace("%", "%%") for name, value in values.items()}
                for section, values in sections.items()
            }
        )
        with tempfile.SpooledTemporaryFile(mode="w+", encoding="utf-8") as draft:
            parser.write(draft)
            draft.seek(0)
            return draft.read()

    def states(self) -> dict[str, ProcessState]:
        """Return every server that supervisord knows, by name."""
        return {
            info["name"]: ProcessState(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"] or None,
                since=info["start"],
                problem=info["spawnerr"],
            )
            for info in self._call("getAllProcessInfo")  # type: ignore[attr-defined]  # XML-RPC has no types
        }

    def state(self, name: str) -> ProcessState:
        """Return one server."""
        return self.states()[name]

    def start(self, name: str) -> None:
        """Start a server if it is not running, without waiting for it."""
        if self.state(name).state not in RUNNING:
            self._call("startProcess", name, False)

    def stop(self, names: Sequence[str], *, seconds: float) -> None:
        """Stop servers at the same time and wait until they have ended. Supervisord kills those that take too long."""
        if not _wait(lambda: self._are_stopped(names), seconds=seconds):
            alive = [name for name in names if self.state(name).pid is not None]
            raise StackError(
                f"Still running {seconds:.0f} s after they were told to stop: {', '.join(alive)}.",
                remedy="Run 'churn down' again: it ends the processes that are left.",
            )

    def _are_stopped(self, names: Sequence[str]) -> bool:
        """Return whether servers have ended; request the stop of those that have not.

        A server that crashes repeatedly gets more than one request: supervisord may restart it before it handles one.
        """
        states = self.states()
        for name in names:
            if states[name].state in RUNNING | {"BACKOFF"}:
                with suppress(xmlrpc.client.Fault):  # its state has changed meanwhile
                    self._call("stopProcess", name, False)
        return all(states[name].pid is None and states[name].state not in RUNNING | {"BACKOFF"} for name in names)

    def shut_down(self) -> None:
        """Stop supervisord itself."""
        pid = int(str(self._call("getPID")))
        self._call("shutdown")
        _wait(lambda: not _alive(pid), seconds=15)  # if it does not end, it is ended later as a left-over process

    def last_lines(self, name: str, count: int = 15) -> list[str]:
        """Return the last lines of a server's log."""
        file = self.log_file(name)
        if not file.exists():
            return []
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - count * 400))
            return log.read().decode(errors="replace").splitlines()[-count:]


def _require_no_comment(value: str) -> None:
    """Check that supervisord reads all of a value: it reads the rest of a line after " #" or " ;" as a comment.

    Raises:
        StackError: the value contains one of these.
    """
    if re.search(r"\s[;#]|[\r\n]", value):
        raise StackError(
            f"A path of the stack contains a line break, or a space before '#' or ';': {value}",
            remedy="Set CHURN_LOCAL to another folder, or move the checkout.",
        )


def _alive(pid: int) -> bool:
    """Return whether a process runs. A zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(condition: Callable[[], bool], *, seconds: float, pause: float = 0.05) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def left_over(local: Path) -> list[psutil.Process]:
    """Return the processes of a stack in this folder, without this process and its parents."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in own and _belongs_to(process, local)]


def _belongs_to(process: psutil.Process, local: Path) -> bool:
    try:
        return process.environ().get(STACK_MARKER) == str(local)
    except (psutil.AccessDenied, psutil.NoSuchProcess, OSError):
        return False  # of another user, or it has ended


def _have_ended(processes: Sequence[psutil.Process]) -> bool:
    return not any(_alive(process.pid) for process in processes)


def end(processes: Sequence[psutil.Process], signals: Sequence[tuple[int, float]]) -> None:
    """End processes by one signal after the other, each with the seconds to wait for it; the last is a kill."""
    for number, seconds in signals:
        alive = [process for process in processes if _alive(process.pid)]
        for process in alive:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue  # it has ended meanwhile
        if _wait(partial(_have_ended, alive), seconds=seconds):
            return
    surviving = [process for process in processes if _alive(process.pid)]
    if surviving:
        raise StackError(
            f"Processes {', '.join(str(process.pid) for process in surviving)} of an earlier stack survived SIGKILL.",
            remedy="End them manually, then run the command again.",
        )


def is_supervisor(process: psutil.Process) -> bool:
    """Return whether the process is a supervisord."""
    try:
        return "supervisor.supervisord" in process.cmdline()
    except psutil.NoSuchProcess:
        return False
