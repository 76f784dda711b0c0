"""The exact median of numbers that are in many parts. Pure; no I/O.

One pass estimates bounds around the median. Another counts, in each part, the values below the bounds and the values
within them. The sums of these counts give the two values in the middle, whatever the number of parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Of 100 million values, 0.2 % or 200,000 are within the bounds. The estimates are off by 1 / ACCURACY of the values.
SHARES: Final = (0.499, 0.501)
ACCURACY: Final = 10_000


@dataclass(frozen=True)
class Bounds:
    """Values around the median, both included."""

    low: float
    high: float


EVERYTHING: Final = Bounds(-np.inf, np.inf)


@dataclass(frozen=True)
class PartCounts:
    """What a part has of a column.

    Attributes:
        below: number of values below the bounds.
        within: value -> number of times that it occurs, of the values within the bounds.
    """

    below: int
    within: Mapping[float, int]


def count_part(known: NDArray[Any], bounds: Bounds) -> PartCounts:
    """Count the values of a part, none of which is missing."""
    values, counts = np.unique(known[(known >= bounds.low) & (known <= bounds.high)], return_counts=True)
    return PartCounts(
        int(np.count_nonzero(known < bounds.low)), dict(zip(values.tolist(), counts.tolist(), strict=True))
    )


def middle_values(count: int, below: int, within: Mapping[float, int]) -> tuple[float, float]:
    """Return the values with the numbers (count - 1) // 2 and count // 2, from 0, of sorted ones.

    Args:
        count: number of all values, one at least.
        below: number of values below the bounds.
        within: value -> number of times that it occurs, of the values within the bounds.

    Raises:
        LookupError: one of them is not within the bounds.
    """
    values = np.array(sorted(within))
    reached = below + np.cumsum([within[value] for value in sorted(within)], dtype=np.int64)
    found = []
    for rank in ((count - 1) // 2, count // 2):
        place = int(np.searchsorted(reached, rank, side="right"))
        if rank < below or place == len(values):
            raise LookupError(f"of {count} values, number {rank} is not within the bounds")
        found.append(values[place].item())
    return found[0], found[1]
