"""The status of each part, as `churn status` reports it."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import psutil

from churn_platform.local.part import Part
from churn_platform.local.readiness import is_ready, pids, port_taken
from churn_platform.local.supervision import FAILED, RUNNING, ProcessState, Supervisor


@dataclass(frozen=True)
class PartStatus:
    """One line of `churn status`."""

    name: str
    title: str
    state: str
    """ready, starting, not answering, port taken, stopped or failed; for a server of the user: yours, or
    not answering (yours)."""
    address: str
    pid: int | None
    seconds_up: float | None
    memory_mb: float | None
    log: str | None
    problem: str | None
    """Why it does not answer, if that is known."""

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return asdict(self)


def collect_status(parts: list[Part], supervisor: Supervisor) -> list[PartStatus]:
    """Check every part now, all at the same time."""
    states = supervisor.states() if supervisor.answers() else {}
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(lambda part: _part_status(part, states, supervisor), parts))


def _part_status(part: Part, states: Mapping[str, ProcessState], supervisor: Supervisor) -> PartStatus:
    process = states.get(part.name)
    running = process is not None and process.state in RUNNING
    state, problem = _condition(part, states)
    return PartStatus(
        name=part.name,
        title=part.title,
        state=state,
        address=part.address,
        pid=process.pid if process is not None else None,
        seconds_up=time.time() - process.since if process is not None and running else None,
        memory_mb=_memory_mb(process.pid) if process is not None and process.pid is not None else None,
        log=str(supervisor.log_file(part.name)) if part.command else None,
        problem=problem,
    )


def _condition(part: Part, states: Mapping[str, ProcessState]) -> tuple[str, str | None]:
    """Return the state of a part as PartStatus names it, and the problem if there is one."""
    if not part.command:
        problem = part.problem()
        return ("yours", None) if problem is None else ("not answering (yours)", problem.text)
    process = states.get(part.name)
    if process is None or process.state == "STOPPED":
        return "stopped", None
    taken = port_taken(part, pids(process))
    if taken is not None:
        return "port taken", taken
    if process.state in FAILED:
        return "failed", process.problem or None
    if is_ready(part, states):
        return "ready", None
    return "starting" if time.time() - process.since < part.deadline else "not answering", None


def _memory_mb(pid: int) -> float | None:
    """Return the memory of a process and its children in MB; None if the process has ended meanwhile."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return round(sum(map(_memory, family)) / 1e6, 1)
    except psutil.NoSuchProcess:
        return None


def _memory(process: psutil.Process) -> int:
    """Return the resident memory of a process in bytes, with its part of the memory that it shares, if that is known.

    Runs share the modules that they were forked with, and the sessions of PostgreSQL share its buffers.
    """
    try:
        memory: int = process.memory_full_info().pss
    except (psutil.AccessDenied, AttributeError):  # of another user, or not Linux
        memory = process.memory_info().rss
    return memory
