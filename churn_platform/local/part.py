"""What every server of the stack has in common."""

import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from churn_platform.local.listening import Place

Report = Callable[[str], None]
"""Is told, in a few words, what a part is doing."""


def nothing_to_prepare(report: Report) -> None:
    """For a part that needs no preparation."""
    del report


def nothing_to_complete() -> None:
    """For a part that is complete as soon as it answers."""


@dataclass(frozen=True)
class Problem:
    """Why a server of the user cannot be used.

    Attributes:
        text: as a sentence.
        lasting: whether it will be the same in a moment: it is of no use to wait.
    """

    text: str
    lasting: bool


def no_problem_known() -> Problem | None:
    """For a part of ours: its log says what is wrong."""
    return None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One server: how it is prepared, run, asked whether it is well, and stopped."""

    name: str
    title: str
    command: tuple[str, ...]
    address: str
    """Where it listens, for people."""
    ready: Callable[[float], bool] = lambda _: True
    """Whether one of ours answers; is told when its process started, in seconds since the epoch."""
    listens_at: tuple[Place, ...] = ()
    """Where its own process has to listen: an answer from there is this server's only then."""
    answers_through: "Part | None" = None
    """The part that answers for it, where it does not listen itself."""
    problem: Callable[[], Problem | None] = no_problem_known
    """Why a server of the user cannot be used; None when it can. That of ours is never asked."""
    prepare: Callable[[Report], None] = nothing_to_prepare
    """Runs before the server starts."""
    complete: Callable[[], None] = nothing_to_complete
    """Runs once it answers, before whatever needs it."""
    needs: tuple[str, ...] = ()
    """Parts that must be complete before this one starts."""
    deadline: float = 120
    """Seconds it may take to answer."""
    user: str | None = None
    """System user to run as, when we are root and the server refuses to be."""
    folder: Path
    """Working directory."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of this server alone. They are written to a file: no secrets."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: int = 15
    """How long it may take to stop before it is killed."""
    stop_with_children: bool = False
    """Whether the stop signal goes to its children too."""
    stop_stage: int = 0
    """Parts of a lower stage are stopped first."""
    while_stopping: Callable[[int], AbstractContextManager[object]] = nullcontext
    """Is entered before the process with this id is told to stop, and left once it has."""
