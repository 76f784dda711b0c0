"""What the stack reports while it starts or stops."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """A phase of the start or stop of a part."""

    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Step:
    """A change of one part's phase. `seconds` is the time since the start or stop began."""

    part: str
    title: str
    phase: Phase
    detail: str
    seconds: float


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Report nothing."""
    del step
