"""What every server of the stack has in common."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Report = Callable[[str], None]
"""Is told, in a few words, what a part is doing."""


def nothing_to_prepare(report: Report) -> None:
    """For a part that needs no preparation."""
    del report


def nothing_to_complete() -> None:
    """For a part that is complete as soon as it answers."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One server: how it is prepared, run, asked whether it is well, and stopped."""

    name: str
    title: str
    command: tuple[str, ...]
    address: str
    """Where it listens, for people."""
    ready: Callable[[float], bool]
    """Whether it answers; is told when its process started, in seconds since the epoch."""
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
