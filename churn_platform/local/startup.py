"""Starting several parts at the same time, each as soon as what it needs is complete."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from churn_platform.local.errors import PortTakenError, StackError
from churn_platform.local.part import Part
from churn_platform.local.progress import Phase, Progress, Step
from churn_platform.local.readiness import is_ready, pids, port_taken
from churn_platform.local.supervision import FAILED, Supervisor

PAUSE_SECONDS = 0.1  # between two checks whether a server answers


def already_complete(part: Part) -> None:
    """Do nothing: the part was completed by an earlier start."""
    del part


class Startup:
    """One start of several parts."""

    def __init__(
        self, supervisor: Supervisor, parts: list[Part], complete: Callable[[Part], None], progress: Progress
    ) -> None:
        """Create the start.

        Args:
            supervisor: a running one, configured with the parts.
            parts: the parts to start.
            complete: called with a part once it answers, before the parts that need it start.
            progress: receives each change.
        """
        self._supervisor = supervisor
        self._parts = parts
        self._complete = complete
        self._progress = progress
        self._begun = time.monotonic()
        self._given_up = threading.Event()
        self._done = {part.name: threading.Event() for part in parts}

    def run(self) -> None:
        """Start all parts and wait until they answer.

        Raises:
            StackError: the first failure.
        """
        with ThreadPoolExecutor(len(self._parts)) as pool:
            starts: list[Future[None]] = [pool.submit(self._start, part) for part in self._parts]
            try:
                wait(starts, return_when=FIRST_EXCEPTION)
            finally:
                self._given_up.set()  # other starts still wait only after a failure or an interrupt
        errors = [start.exception() for start in starts]
        for error in errors:
            if error is not None and not isinstance(error, _GivenUpError):
                raise error

    def _report(self, part: Part, phase: Phase, detail: str = "") -> None:
        self._progress(Step(part.name, part.title, phase, detail, time.monotonic() - self._begun))

    def _start(self, part: Part) -> None:
        self._report(part, Phase.PREPARING)
        part.prepare(lambda detail: self._report(part, Phase.PREPARING, detail))
        for name in part.needs:
            if name in self._done:
                self._wait_for(self._done[name].is_set)
        self._report(part, Phase.STARTING)
        if part.command:
            self._supervisor.start(part.name)
            self._wait_until_ready(part)
        else:
            self._wait_for_user_server(part)
        self._complete(part)
        self._done[part.name].set()
        self._report(part, Phase.READY, part.address)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._given_up.wait(PAUSE_SECONDS):
                raise _GivenUpError

    def _wait_until_ready(self, part: Part) -> None:
        deadline = time.monotonic() + part.deadline
        first_pid: int | None = None
        while not is_ready(part, states := self._supervisor.states()):
            if self._given_up.wait(PAUSE_SECONDS):
                raise _GivenUpError
            state = states[part.name]
            taken = port_taken(part, pids(state))
            if taken is not None:
                raise PortTakenError(part.name, part.title, taken)
            first_pid = first_pid or state.pid
            if state.state in FAILED or state.pid != first_pid:
                raise self._failure(part, f"{part.title} ended while it was starting.", state.problem)
            if time.monotonic() > deadline:
                raise self._failure(part, f"{part.title} did not answer within {part.deadline:.0f} s.", "")

    def _wait_for_user_server(self, part: Part) -> None:
        deadline = time.monotonic() + part.deadline
        while (problem := part.problem()) is not None:
            if problem.lasting or time.monotonic() > deadline:
                raise StackError(
                    f"Your own {part.title} cannot be used. {problem.text}",
                    remedy=f"Correct {part.address} or the server that it names, or unset it to use the embedded one.",
                )
            if self._given_up.wait(PAUSE_SECONDS):
                raise _GivenUpError

    def _failure(self, part: Part, problem: str, reason: str) -> StackError:
        log = self._supervisor.log_file(part.name)
        lines = self._supervisor.last_lines(part.name)
        return StackError(
            " ".join(filter(None, (problem, reason))),
            remedy=f"Read the end of its log below (the whole log: {log}), correct the cause and run it again.",
            details="\n".join(lines) or "(the log is empty)",
        )


class _GivenUpError(Exception):
    """Another part has failed, so this one stops waiting."""
