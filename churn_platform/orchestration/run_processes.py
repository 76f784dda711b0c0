"""Processes of runs: on Linux they are forked from a process that has already imported what a run imports.

Dagster's code server starts each run in a new interpreter, where imports take 2 s of CPU time and 100 MB of memory. The
fork server, a child of the code server, imports the modules of run_imports once. A run forked from it starts at once,
and shares the memory of these modules with the other runs. If the fork server does not answer, a run gets a new
interpreter, as without it.
"""

import atexit
import logging
import os
import sys
import threading
from contextlib import suppress
from multiprocessing import forkserver, popen_forkserver, synchronize
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from churn_platform.deployment.dagster_home import RUN_PROCESS
from churn_platform.orchestration.ended_runs import CODE_SERVER

if TYPE_CHECKING:
    from dagster._grpc.server import DagsterApiServer

IMPORTS: Final = "churn_platform.orchestration.run_imports"
# The other servers of a stack start at the same time as the code server. After this time, the fork server does not
# delay them. A run that is launched earlier starts it at once.
START_SECONDS: Final = 10.0
# The imports take 2 s on an idle machine. While a launch waits for them, the code server does not report its run yet,
# and a run without a process is dead after 10 s (run_liveness.DEAD_SECONDS).
ANSWER_SECONDS: Final = 7.0
# The fork server reports an exit code within milliseconds, unless it was killed or is stopped.
EXIT_CODE_SECONDS: Final = 2.0
UNKNOWN_EXIT_CODE: Final = 255  # as in the library
# Before this version of Python, any user of the machine could send code to the fork server (CVE-2022-42919).
SAFE_SOCKET: Final = (3, 11, 1)
OWN_NAME: Final = Path("/proc/self/comm")

_python_log = logging.getLogger(__name__)


def fork_runs() -> None:
    """Let the code server of this process, if it is one, fork the processes of its runs. Only on Linux.

    Elsewhere libraries of the system may start threads that a forked process lacks.
    """
    if CODE_SERVER not in sys.modules or sys.platform != "linux" or sys.version_info < SAFE_SOCKET:
        return
    from dagster._grpc.server import DagsterApiServer

    context = RunContext()
    clean_up = DagsterApiServer._cleanup_thread

    def start_later_and_clean_up(server: "DagsterApiServer") -> None:
        timer = threading.Timer(START_SECONDS, context.check)
        timer.daemon = True
        timer.start()
        clean_up(server)

    # There are no hooks. Each server sets the context before it loads the definitions, but a property takes precedence.
    # It starts the thread afterwards.
    DagsterApiServer._mp_ctx = property(lambda _: context, lambda *_: None)  # type: ignore[assignment]
    DagsterApiServer._cleanup_thread = start_later_and_clean_up  # type: ignore[assignment, method-assign]


class EndRequest(synchronize.Event):
    """The event with which the code server asks the process of a run to end. Setting it never waits for the process.

    The library waits until every process that waits for the event has woken up. One that is frozen, or whose threads
    all wait, never does, and the code server holds a lock meanwhile: it would launch no other run.
    """

    def __init__(self, context: BaseContext) -> None:
        super().__init__(ctx=context)
        self._asked = False

    def set(self) -> None:
        """Ask the process to end, in a thread that may wait for it."""
        self._asked = True
        threading.Thread(target=super().set, name="end request", daemon=True).start()

    def is_set(self) -> bool:
        """Return whether the process was asked to end."""
        return self._asked or super().is_set()


class RunContext(ForkServerContext):
    """What the code server creates processes of runs with, and what it shares with them."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._check: _Check | None = None

    def Process(self, *arguments: Any, **keywords: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802  a class in the library
        """Return a process that has not started yet: a forked one if the fork server answers in time."""
        kind = ForkedRun if self.answers(ANSWER_SECONDS) else SpawnProcess
        return kind(*arguments, **keywords)

    def Event(self) -> EndRequest:  # noqa: N802  a class in the library
        """Return the event that asks a process to end."""
        return EndRequest(self.get_context())

    def answers(self, seconds: float) -> bool:
        """Return whether the fork server forks a process within this time. Starts it if it does not run.

        The code server starts runs while it holds a lock, so the time for imports has to pass before.
        """
        check = self.check()
        check.join(seconds)
        if not check.answered:
            _python_log.warning(
                "The process that runs are forked from %s. The next run starts in a new interpreter, which takes 2 s "
                "longer.",
                f"does not answer: {check.problem}" if check.problem else f"has not answered for {seconds:.0f} s",
            )
        return check.answered

    def check(self) -> "_Check":
        """Start to check whether the fork server answers, unless a check still waits, and return the check."""
        with self._lock:
            if self._check is None or not self._check.is_alive():
                self._check = _Check()
                self._check.start()
            return self._check


class _Check(threading.Thread):
    """Lets the fork server fork a process that does nothing."""

    def __init__(self) -> None:
        super().__init__(name="fork server check", daemon=True)
        self.answered = False
        self.problem: Exception | None = None

    def run(self) -> None:
        forkserver.set_forkserver_preload([IMPORTS])
        process = ForkedProcess(target=_do_nothing)
        try:
            process.start()
            process.join()
        except (OSError, EOFError) as error:  # it has ended
            self.problem = error
        self.answered = process.exitcode == 0


def _do_nothing() -> None:
    """Run in the process that shows whether the fork server answers."""


class ForkedProcess(ForkServerProcess):
    """A forked process that is watched even if the fork server is killed."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> "_Forked":  # noqa: N802  of the library
        return _Forked(process_obj)


class ForkedRun(ForkedProcess):
    """The forked process of a run, which behaves like one in a new interpreter."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._environment = dict(os.environ)

    def run(self) -> None:
        """Execute the run, in the environment of the code server."""
        os.environ.clear()
        os.environ.update(self._environment)
        np.random.seed()  # all runs would draw the same numbers; other generators do this themselves
        with suppress(OSError):  # /proc may be read-only
            OWN_NAME.write_text(RUN_PROCESS)
        try:
            super().run()
        finally:
            atexit._run_exitfuncs()  # a forked process ends without them


class _Forked(popen_forkserver.Popen):
    """A forked process, as seen by the code server.

    The library learns the end of a process from the fork server. If that is killed, all its processes seem to have
    ended, and the code server would record runs as failed that continue. So the process itself is watched.
    """

    def __init__(self, process: BaseProcess) -> None:
        self._reading = threading.Lock()
        super().__init__(process)
        self._status = self.sentinel
        with suppress(OSError):  # it has just ended, or this kernel is older than 5.3
            watched = os.pidfd_open(self.pid)
            Finalize(self, os.close, (watched,))
            self.sentinel = watched

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code if the process has ended. With flag 0, wait for that."""
        if not wait([self.sentinel], 0 if flag == os.WNOHANG else None):
            return None
        with self._reading:  # only one thread can read the exit code
            if self.returncode is None:
                self.returncode = self._exit_code()
            return self.returncode

    def _exit_code(self) -> int:
        if not wait([self._status], EXIT_CODE_SECONDS):
            return UNKNOWN_EXIT_CODE
        try:
            return int(forkserver.read_signed(self._status))
        except (OSError, EOFError):  # the fork server was killed
            return UNKNOWN_EXIT_CODE
