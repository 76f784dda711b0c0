"""Lanes: how the Kafka partitions of the events topic are split among streaming runs. Pure.

Partition p belongs to lane p mod n, where n is the number of lanes. Each lane has its own live run. No lock, no table
and no client belongs here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from churn_platform.errors import PlatformError

_Value = TypeVar("_Value")


class LanesError(PlatformError):
    """There are more lanes than partitions, so some lanes would have nothing to read."""


@dataclass(frozen=True, order=True)
class Lane:
    """One of `of` lanes. Numbers begin at 0. The only lane of one has every partition.

    Attributes:
        of: number of lanes, at least 1.
        number: of this lane, 0 to `of` - 1.
    """

    of: int = 1
    number: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: there is no such lane.
        """
        if not 0 <= self.number < self.of:
            raise ValueError(f"Lane {self.number} of {self.of}: expected a number from 0 to {self.of - 1}.")

    def __str__(self) -> str:
        """Return the lane as text for people: lane 0 of 2."""
        return f"lane {self.number} of {self.of}"

    def owns(self, partition: int) -> bool:
        """Return whether a Kafka partition belongs to this lane."""
        return partition % self.of == self.number

    def select(self, by_partition: Mapping[int, _Value]) -> dict[int, _Value]:
        """Return the entries of this lane's partitions."""
        return {partition: value for partition, value in by_partition.items() if self.owns(partition)}


WHOLE: Final = Lane()
"""The only lane of a topic that is not split."""


def lanes(count: int) -> list[Lane]:
    """Return all lanes of a layout with this many."""
    return [Lane(count, number) for number in range(count)]


def require_lanes(count: int, *, topic: str, partitions: int) -> None:
    """Refuse more lanes than the topic has partitions.

    Raises:
        LanesError: there are more.
    """
    if count > partitions:
        raise LanesError(
            f"LANES is {count}, but the topic {topic!r} has {partitions} partitions: a lane without a partition has "
            f"nothing to read.",
            remedy=f"Set LANES to {partitions} or less, or add partitions to the topic.",
        )


def transactional_id(group: str, number: int) -> str:
    """Return the transactional id of the producer that publishes a lane's predictions."""
    return f"{group}-{number}"
