"""The result of checking one invariant of the stream, and a collector of its violations."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

EXAMPLES: Final = 5


@dataclass(frozen=True)
class Invariant:
    """One invariant: whether it holds, a sentence with its numbers, and the first few violations."""

    name: str
    holds: bool
    says: str
    broken: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)


class Findings:
    """Collects the violations of one invariant: their count and a few examples."""

    def __init__(self) -> None:
        self.count = 0
        self.places: list[str] = []

    def add(self, count: int, places: Iterable[str]) -> None:
        """Add violations, with some examples."""
        self.count += count
        for place in places:
            if len(self.places) >= EXAMPLES:
                return
            self.places.append(place)

    def invariant(self, name: str, says: str, **figures: int) -> Invariant:
        """Return the invariant with these violations."""
        return Invariant(name, self.count == 0, says, self.places, {**figures, "broken": self.count})
