"""The description of one server of the stack."""

import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from churn_platform.local.listening import Place

Report = Callable[[str], None]
"""Receives a short text about what a part is doing."""


def nothing_to_prepare(report: Report) -> None:
    """Do nothing: the part needs no preparation."""
    del report


def nothing_to_complete() -> None:
    """Do nothing: the part is complete as soon as it answers."""


@dataclass(frozen=True)
class Problem:
    """Why a server of the user cannot be used.

    Attributes:
        text: what is wrong, as a sentence.
        lasting: whether waiting does not help.
    """

    text: str
    lasting: bool


def no_problem_known() -> Problem | None:
    """Return None: the log of an embedded server shows what is wrong."""
    return None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One server: how to prepare, run, check and stop it. A server of the user is a part without a command."""

    name: str
    title: str
    command: tuple[str, ...]
    address: str
    """Where it listens, for display. For a server of the user: the setting that names it."""
    ready: Callable[[float], bool] = lambda _: True
    """Whether an embedded server answers. The argument is when its process started, in seconds since the epoch."""
    listens_at: tuple[Place, ...] = ()
    """Where its process has to listen. Only then does an answer from there come from this server."""
    answers_through: "Part | None" = None
    """The part that answers for it, if it does not listen itself."""
    problem: Callable[[], Problem | None] = no_problem_known
    """Why a server of the user cannot be used; None if it can. Never called for an embedded server."""
    prepare: Callable[[Report], None] = nothing_to_prepare
    """Runs before the server starts."""
    complete: Callable[[], None] = nothing_to_complete
    """Runs once it answers, before the parts that need it start."""
    needs: tuple[str, ...] = ()
    """Parts that must be complete before this one starts."""
    deadline: float = 120
    """Seconds that it may take to answer."""
    user: str | None = None
    """System user to run as, if this process is root and the server refuses to run as root."""
    folder: Path
    """Working directory."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of this server only. They are written to a file, so they must not hold secrets."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: int = 15
    """How long it may take to stop before it is killed."""
    stop_with_children: bool = False
    """Whether the stop signal goes to its child processes too."""
    stop_stage: int = 0
    """Parts of a lower stage are stopped first."""
    while_stopping: Callable[[int], AbstractContextManager[object]] = nullcontext
    """A context around the stop. The argument is the id of the process that is stopped."""
