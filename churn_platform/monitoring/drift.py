"""Drift: how far the customers of a time are from those a model learned from, feature by feature. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import CATEGORICAL_COLUMNS, INPUT_COLUMNS, Columns, is_null

SCORE: Final = "risk_score"
"""The score is watched like a feature: it moves where several features move a little, too."""

WATCHED: Final = (*INPUT_COLUMNS, SCORE)
BINS: Final = 10  # of equal count in the reference; the thresholds of the PSI are those of ten bins
MOST_VALUES: Final = 12  # a whole number of no more values, such as Tenure, has a bin for each of them
# Of a two-sample test. With eleven features an hour, chance alone brings one such p-value every two weeks or so, and
# hardly ever one whose PSI is over the threshold, too.
SIGNIFICANCE: Final = 0.001
HALF: Final = 0.5  # of a customer, added to every bin: an empty bin would make the PSI infinite


class Verdict(StrEnum):
    """What is to be said of a feature's drift."""

    STABLE = "stable"
    SHIFTED = "shifted"
    FAR = "far"
    TOO_FEW = "too few"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """From where on a PSI counts. 0.1 and 0.25 are what credit scoring has long used for ten bins (Siddiqi, 2006).

    Attributes:
        shifted: PSI from which a feature has shifted, > 0.
        far: PSI from which it is far off, >= shifted.
        least: fewer rows than this are not judged: with 100 of them, chance alone makes a PSI of 0.1.
    """

    shifted: float
    far: float
    least: int


@dataclass(frozen=True)
class FeatureReference:
    """One feature in the rows a model learned from.

    The bins of a number are those between its edges, the lower edge included: n edges make n + 1 bins. A category has
    a bin for each known one and one for all others. In both, nulls have the last bin.

    Attributes:
        counts: rows in each bin.
        edges: of a number's bins, rising; empty for a category.
        categories: in the order of their bins; empty for a number.
        span: the least and the greatest value of a number.
    """

    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    span: tuple[float, float] = (0.0, 0.0)

    @property
    def missing_rate(self) -> float:
        """Share of nulls, 0..1."""
        return self.counts[-1] / sum(self.counts)

    @property
    def labels(self) -> list[str]:
        """What each bin holds, in words."""
        if self.categories:
            return [*self.categories, "other", "missing"]
        if not self.edges:
            return ["all", "missing"]
        between = [f"{low:,.6g} to {high:,.6g}" for low, high in zip(self.edges, self.edges[1:], strict=False)]
        return [f"below {self.edges[0]:,.6g}", *between, f"from {self.edges[-1]:,.6g}", "missing"]

    def count(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """How many of the values lie in each bin. Shape (n,) to shape (bins,)."""
        missing = is_null(values)
        known = values[~missing]
        if self.categories:
            numbers = np.full(len(known), len(self.categories))
            for number, category in enumerate(self.categories):
                numbers[known == category] = number
        else:
            numbers = np.searchsorted(self.edges, known.astype(np.float64), side="right")
        counted = np.bincount(numbers, minlength=len(self.counts) - 1)
        return np.append(counted, missing.sum()).astype(np.int64)

    def outside(self, values: NDArray[Any]) -> int:
        """How many values no row had that the model learned from: unknown categories, or beyond its span."""
        known = values[~is_null(values)]
        if self.categories:
            return int((~np.isin(known.astype(str), self.categories)).sum())
        numbers = known.astype(np.float64)
        return int(((numbers < self.span[0]) | (numbers > self.span[1])).sum())


@dataclass(frozen=True)
class Reference:
    """Every watched feature in the rows a model learned from; kept with its version."""

    features: Mapping[str, FeatureReference]

    @classmethod
    def of(cls, columns: Columns) -> Reference:
        """Of training rows: the columns of WATCHED, scores out of fold, nulls as they came. All of shape (n,)."""
        return cls(
            {name: _category(columns[name]) if _is_category(name) else _number(columns[name]) for name in WATCHED}
        )

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return {name: asdict(feature) for name, feature in self.features.items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Mapping[str, Any]]) -> Reference:
        """What `to_json` gave, also after a round through JSON."""
        return cls(
            {
                name: FeatureReference(
                    counts=tuple(feature["counts"]),
                    edges=tuple(feature["edges"]),
                    categories=tuple(feature["categories"]),
                    span=(feature["span"][0], feature["span"][1]),
                )
                for name, feature in plain.items()
            }
        )


@dataclass(frozen=True)
class Observed:
    """One feature in rows that a model scored.

    Attributes:
        counts: rows in each bin of the reference.
        outside: rows that `FeatureReference.outside` counts.
        weight: how many rows each of them stands for; 1 unless they are a sample.
    """

    counts: tuple[int, ...]
    outside: int
    weight: float = 1.0

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return sum(self.counts)

    @property
    def missing_rate(self) -> float:
        """Share of nulls, 0..1."""
        return self.counts[-1] / max(self.rows, 1)

    @property
    def out_of_range_rate(self) -> float:
        """Share of values that no row had that the model learned from, 0..1."""
        return self.outside / max(self.rows, 1)


@dataclass(frozen=True)
class Drift:
    """The distance of one feature from its reference.

    Attributes:
        psi: population stability index, >= 0.
        p_value: of a chi-squared test that both have the same distribution, 0..1.
        rows: that were observed.
    """

    psi: float
    p_value: float
    rows: int

    def verdict(self, bounds: Bounds) -> Verdict:
        """Far off or shifted only where the PSI says so and the test does not call it chance."""
        if self.rows < bounds.least:
            return Verdict.TOO_FEW
        if self.p_value >= SIGNIFICANCE or self.psi < bounds.shifted:
            return Verdict.STABLE
        return Verdict.FAR if self.psi >= bounds.far else Verdict.SHIFTED


def observe(reference: Reference, columns: Columns, *, weight: float = 1.0) -> dict[str, Observed]:
    """Count rows that a model scored in the bins of its reference.

    Args:
        reference: of that model.
        columns: those of WATCHED, shape (n,).
        weight: how many rows each of these stands for.
    """
    return {
        name: Observed(tuple(feature.count(columns[name]).tolist()), feature.outside(columns[name]), weight)
        for name, feature in reference.features.items()
    }


def drift(reference: FeatureReference, observed: Observed) -> Drift:
    """How far the observed rows are from the reference.

    PSI = sum over the bins of (q - p) ln(q / p), p and q the shares of the reference and of the observed rows; the
    test is the chi-squared test of homogeneity.
    """
    from scipy.stats import chi2_contingency  # type: ignore[import-untyped]  # 0.5 s to import

    expected, found = np.array(reference.counts, np.float64), np.array(observed.counts, np.float64)
    taken = (expected + found) > 0
    if observed.rows == 0 or taken.sum() < 2:
        return Drift(0.0, 1.0, observed.rows)
    p, q = _shares(expected[taken]), _shares(found[taken])
    test = chi2_contingency(np.stack([expected[taken], found[taken]]), correction=False)
    return Drift(float(((q - p) * np.log(q / p)).sum()), float(test.pvalue), observed.rows)


def merged(parts: Sequence[Observed]) -> Observed:
    """Several times as one, each with the weight of all rows that its sample stands for.

    Counts are scaled so that their sum stays that of the samples: what is known of them does not become more.
    """
    total = sum(part.rows for part in parts)
    weighted = reduce(np.add, (np.array(part.counts) * part.weight for part in parts))
    outside = sum(part.outside * part.weight for part in parts)
    stands_for = float(weighted.sum())
    scale = total / stands_for if stands_for else 0.0
    counts = tuple(round(count) for count in (weighted * scale).tolist())
    return Observed(counts, round(outside * scale), 1 / scale if scale else 1.0)


def _is_category(name: str) -> bool:
    return name in CATEGORICAL_COLUMNS


def _number(values: NDArray[Any]) -> FeatureReference:
    known = values[~is_null(values)].astype(np.float64)
    distinct = np.unique(known)
    if len(distinct) <= MOST_VALUES and (distinct == np.rint(distinct)).all():
        edges = distinct[1:]
    else:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
        edges = edges[edges > distinct[0]]  # of Balance a third is 0: several quantiles are its least value
    span = (float(distinct[0]), float(distinct[-1]))
    empty = FeatureReference((0,) * (len(edges) + 2), edges=tuple(edges.tolist()), span=span)
    return replace(empty, counts=tuple(empty.count(values).tolist()))


def _category(values: NDArray[Any]) -> FeatureReference:
    categories = tuple(sorted({str(value) for value in values[~is_null(values)]}))
    empty = FeatureReference((0,) * (len(categories) + 2), categories=categories)
    return replace(empty, counts=tuple(empty.count(values).tolist()))


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((counts + HALF) / (counts + HALF).sum())
