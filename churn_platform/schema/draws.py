"""Random numbers that are the same on every machine and with every version of NumPy. Pure; no I/O."""

import zlib
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMAL_DEVIATIONS = np.arange(-180, 181) / 40  # -4.5..4.5 in steps of 1/40
NORMAL_SHARES = np.array([NormalDist().cdf(deviation) for deviation in NORMAL_DEVIATIONS.tolist()])


class Draws:
    """Random numbers for one file, an independent stream for each purpose: a new column does not change the others.

    They are made of the raw integers of PCG64, whose sequence NumPy guarantees. The methods of `Generator` may change
    with NumPy's version.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self._seed = seed

    def integers(self, purpose: str) -> NDArray[np.uint64]:
        """Return uniform 64-bit integers, shape (rows,)."""
        sequence = np.random.SeedSequence(entropy=self._seed, spawn_key=(zlib.crc32(purpose.encode()),))
        return np.asarray(np.random.PCG64(sequence).random_raw(self.rows), dtype=np.uint64)

    def permutation(self, purpose: str) -> NDArray[np.int64]:
        """Return the row numbers 0..rows-1 in random order."""
        order: NDArray[np.int64] = np.argsort(self.integers(purpose), kind="stable").astype(np.int64)
        return order

    def stratified(self, purpose: str, groups: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Return stratified uniform numbers in [0, 1), over all rows or over the rows of each group.

        Of k rows, one is in each k-th of the interval, in random order. So shares are almost exact for every seed, and
        not only on average.

        Args:
            purpose: name of the stream.
            groups: shape (rows,), equal for the rows of one group; None for one group of all rows.

        Returns:
            shape (rows,).
        """
        position = self.integers(purpose)
        members = np.zeros(self.rows, dtype=np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
        sizes = np.bincount(members)
        order = np.lexsort((position, members))
        rank = np.empty(self.rows, dtype=np.int64)
        rank[order] = np.arange(self.rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        within = (self.integers(f"{purpose}, within its slice") >> np.uint64(11)).astype(np.float64) / 2**53
        return (rank + within) / sizes[members]

    def sample(
        self,
        purpose: str,
        weight: NDArray[np.float64],
        *,
        count: int,
        sort_by: Sequence[NDArray[Any]],
    ) -> NDArray[np.bool_]:
        """Return a random sample of rows, each with a probability proportional to its weight (systematic sampling).

        The rows are sorted so that similar ones are adjacent, and one is chosen at each equal step of the cumulative
        weight. So each group has nearly its expected number. Weights are rounded to 1/10,000, because sums of integers
        are exact on every machine.

        Args:
            purpose: name of the stream.
            weight: shape (rows,), 0..1.
            count: size of the sample.
            sort_by: sort keys, the most important first; each of shape (rows,).

        Returns:
            shape (rows,), True for chosen rows.
        """
        order = np.lexsort((self.integers(f"{purpose}, place among equals"), *reversed(sort_by)))
        cumulative = np.cumsum(np.rint(weight * 10_000).astype(np.int64)[order])
        total = max(int(cumulative[-1]), 1)
        start = int(self.integers(purpose)[0] % np.uint64(total))
        steps = (cumulative * count + start) // total
        chosen = np.empty(self.rows, dtype=np.bool_)
        chosen[order] = np.diff(steps, prepend=0) > 0
        return chosen


def pick(counts: Sequence[int], draw: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the choice for each draw in [0, 1), with probabilities proportional to the counts. Shape (rows,)."""
    bounds = np.cumsum(counts)
    index: NDArray[np.int64] = np.searchsorted(bounds[:-1], draw * bounds[-1], side="right").astype(np.int64)
    return index


def normal_deviations(draw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard normal quantile of each draw, -4.5..4.5."""
    return np.interp(draw, NORMAL_SHARES, NORMAL_DEVIATIONS)
