"""Numbers by chance that are the same on every machine and with every version of NumPy. Pure; no I/O."""

import zlib
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMAL_DEVIATIONS = np.arange(-180, 181) / 40  # a grid of 1/40 standard deviation, 4.5 to either side
NORMAL_SHARES = np.array([NormalDist().cdf(deviation) for deviation in NORMAL_DEVIATIONS.tolist()])


class Draws:
    """Numbers by chance for one file: a stream of its own for each purpose, so that a new column changes no other.

    They are made from the raw integers of PCG64, whose sequence NumPy guarantees, and not by `Generator`, whose
    methods may change with NumPy's version.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self._seed = seed

    def integers(self, purpose: str) -> NDArray[np.uint64]:
        """Uniform 64-bit integers, shape (rows,)."""
        sequence = np.random.SeedSequence(entropy=self._seed, spawn_key=(zlib.crc32(purpose.encode()),))
        return np.asarray(np.random.PCG64(sequence).random_raw(self.rows), dtype=np.uint64)

    def order(self, purpose: str) -> NDArray[np.int64]:
        """The row numbers 0..rows-1, shuffled."""
        order: NDArray[np.int64] = np.argsort(self.integers(purpose), kind="stable").astype(np.int64)
        return order

    def even(self, purpose: str, groups: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), as evenly spread as can be over all rows, or over the rows of each group.

        Of k rows one falls into each k-th of the interval, in shuffled order, so that shares hold nearly exactly
        whatever the seed, and not only on average.

        Args:
            purpose: names the stream.
            groups: shape (rows,), equal for the rows of one group.

        Returns:
            shape (rows,).
        """
        place = self.integers(purpose)
        members = np.zeros(self.rows, dtype=np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
        sizes = np.bincount(members)
        order = np.lexsort((place, members))
        rank = np.empty(self.rows, dtype=np.int64)
        rank[order] = np.arange(self.rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        within = (self.integers(f"{purpose}, within its slice") >> np.uint64(11)).astype(np.float64) / 2**53
        return (rank + within) / sizes[members]

    def drawn(
        self,
        purpose: str,
        weight: NDArray[np.float64],
        *,
        count: int,
        likeness: Sequence[NDArray[Any]],
    ) -> NDArray[np.bool_]:
        """Rows drawn by chance, each as likely as its weight says (systematic sampling).

        The rows are put in a line, like beside like, and one is drawn at every even step of the weight summed along it,
        so that each group has close to its expected number. Weights count in whole parts of 10,000: such sums are
        exact on every machine.

        Args:
            purpose: names the stream.
            weight: shape (rows,), 0..1: what the probability of each row is proportional to.
            count: how many to draw.
            likeness: what makes rows alike, the most important first; each of shape (rows,).

        Returns:
            shape (rows,), True where drawn.
        """
        line = np.lexsort((self.integers(f"{purpose}, place among equals"), *reversed(likeness)))
        summed = np.cumsum(np.rint(weight * 10_000).astype(np.int64)[line])
        total = max(int(summed[-1]), 1)
        start = int(self.integers(purpose)[0] % np.uint64(total))
        passed = (summed * count + start) // total
        chosen = np.empty(self.rows, dtype=np.bool_)
        chosen[line] = np.diff(passed, prepend=0) > 0
        return chosen


def pick(counts: Sequence[int], draw: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the choice that each draw in [0, 1) falls on, the choices as wide as their counts. Shape (rows,)."""
    bounds = np.cumsum(counts)
    index: NDArray[np.int64] = np.searchsorted(bounds[:-1], draw * bounds[-1], side="right").astype(np.int64)
    return index


def deviations(draw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard normal deviation with each draw's share below it: the inverse of the normal distribution, -4.5..4.5."""
    return np.interp(draw, NORMAL_SHARES, NORMAL_DEVIATIONS)
