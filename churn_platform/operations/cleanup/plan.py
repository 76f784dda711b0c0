"""What a clean finds and does: the words that its places share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

Report = Callable[[str], None]
"""Is told, in a few words, what is being done."""


class CleanError(Exception):
    """Something cannot be deleted. Its text says what to do about it."""


@dataclass(frozen=True)
class Item:
    """One thing that would go: where it is, what it is called, and how much of it there is."""

    place: str
    name: str
    detail: str


@dataclass(frozen=True)
class Kept:
    """One thing that stays, and why."""

    place: str
    name: str
    reason: str


@dataclass(frozen=True)
class Writer:
    """Something that still writes, and how it is stopped."""

    name: str
    remedy: str


class StillWrittenToError(Exception):
    """Somebody has begun to write again; nothing was deleted."""


@dataclass
class Findings:
    """What a place holds of the platform's, and what of others'."""

    items: list[Item] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


class Place(Protocol):
    """Somewhere that the platform keeps things."""

    @property
    def word(self) -> str:
        """What is typed to confirm that this place is meant."""

    def look(self, report: Report) -> Findings:
        """Find out what is there, and change nothing."""

    def writers(self) -> list[Writer]:
        """Who still writes there, after a look."""

    def rehearse(self) -> None:
        """Make sure, as far as that can be known, that all of it can be deleted.

        Raises:
            CleanError: something cannot.
        """

    def remove(self, report: Report) -> None:
        """Delete what `look` has found.

        Raises:
            CleanError: something cannot be deleted; the rest may be gone.
        """


def size(count: float) -> str:
    """A number of bytes for a person."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
