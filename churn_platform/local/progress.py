"""What the stack reports while it starts or stops."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """How far a part is."""

    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Step:
    """A change of one part. `seconds`: since the start or stop began."""

    part: str
    title: str
    phase: Phase
    detail: str
    seconds: float


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Report nothing."""
    del step
