"""What `churn clean` finds in each place, and the interface of such a place."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from churn_platform.errors import PlatformError

Report = Callable[[str], None]
"""Receives a short text about what is being done."""


class CleanError(PlatformError):
    """Something cannot be deleted."""


@dataclass(frozen=True)
class Item:
    """One thing that will be deleted: where it is, its name, and how much of it there is."""

    place: str
    name: str
    detail: str


@dataclass(frozen=True)
class Kept:
    """One thing that will be kept, and why."""

    place: str
    name: str
    reason: str


@dataclass(frozen=True)
class Writer:
    """Something that still writes, and how to stop it."""

    name: str
    remedy: str


class InUseError(PlatformError):
    """Something writes again; nothing was deleted."""


@dataclass
class Findings:
    """What a place holds: items to delete and items to keep."""

    items: list[Item] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


class Place(Protocol):
    """A server or folder where the platform keeps things."""

    @property
    def word(self) -> str:
        """The word that the user types to confirm that this place may be deleted."""

    def collect(self, report: Report) -> Findings:
        """Return what is there. Nothing is changed."""

    def writers(self) -> list[Writer]:
        """Return what still writes there, after `collect`."""

    def check_deletable(self) -> None:
        """Check, as far as the server allows it, that everything found can be deleted.

        Raises:
            CleanError: something cannot be deleted.
        """

    def delete(self, report: Report) -> None:
        """Delete what `collect` has found.

        Raises:
            CleanError: something cannot be deleted; the rest may be deleted.
        """


def size(count: float) -> str:
    """Return a number of bytes as text."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
