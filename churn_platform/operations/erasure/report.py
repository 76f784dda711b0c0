"""What an erasure found, did and could not do. Pure data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Remains:
    """What is left of a customer, and until when.

    Attributes:
        place: where.
        reason: why it is not erased, and what to do.
        until: when it is deleted by itself at the latest; None if it is not, or if nobody knows.
    """

    place: str
    reason: str
    until: datetime | None = None

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        until = None if self.until is None else self.until.astimezone(UTC).isoformat(timespec="seconds")
        return {"place": self.place, "reason": self.reason, "until": until}


@dataclass(frozen=True)
class Report:
    """The result of an erasure, or its plan.

    Attributes:
        counts: rows or entries about the customer, by place. In a plan also those that there are none of.
        remains: what an erasure does not reach.
        erasure: number in the table erasures; None for a plan.
    """

    counts: Mapping[str, int]
    remains: Sequence[Remains]
    erasure: int | None = None

    @property
    def total(self) -> int:
        """Number of rows and entries."""
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "erasure": self.erasure,
            "counts": dict(self.counts),
            "remains": [each.as_dict() for each in self.remains],
        }
