"""An invariant of the stream, and the findings that contradict it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import numpy as np

from churn_platform.operations.verification.extracts import ID_TYPE

EXAMPLES: Final = 5


@dataclass(frozen=True)
class Invariant:
    """One invariant: whether it holds, a summary with its numbers, and the first few violations."""

    name: str
    holds: bool
    summary: str
    violations: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)


class Findings:
    """Collects the violations of one invariant: their number, and the first examples."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def add(self, count: int, examples: Iterable[str]) -> None:
        """Add findings, and examples until there are enough."""
        self.count += count
        for example in examples:
            if len(self.examples) >= EXAMPLES:
                return
            self.examples.append(example)

    def invariant(self, name: str, summary: str, **figures: int) -> Invariant:
        """Return the invariant with these findings."""
        return Invariant(name, self.count == 0, summary, self.examples, {**figures, "violations": self.count})


def raw_id(event_id: bytes) -> bytes:
    """Return all 16 bytes of an id. numpy cuts zeros off the end of a string."""
    return bytes(event_id).ljust(np.dtype(ID_TYPE).itemsize, b"\0")


def id_text(event_id: bytes) -> str:
    """Return an id as text."""
    return str(UUID(bytes=raw_id(event_id)))
