"""Drift: how far current customers differ from a model's training data, feature by feature. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import Columns, is_null
from churn_platform.monitoring.bins import bin_labels
from churn_platform.monitoring.verdicts import SCORE, Verdict
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema

QUANTILE_BINS: Final = 10  # of equal count in the reference; the usual PSI thresholds assume ten bins
MAX_DISCRETE_VALUES: Final = 12  # a whole number with at most this many values, has one bin for each
# p-value of a two-sample test. With eleven features an hour, chance alone gives one such p-value about every two weeks,
# and hardly ever one whose PSI is also above the threshold.
SIGNIFICANCE: Final = 0.001
SMOOTHING: Final = 0.5  # customers added to every bin, because an empty bin would make the PSI infinite


def monitored(schema: CustomerSchema) -> tuple[str, ...]:
    """Return what is monitored: the columns that events carry, and the score."""
    return (*schema.inputs, SCORE)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """PSI thresholds. Credit scoring has long used 0.1 and 0.25 with ten bins (Siddiqi, 2006).

    Attributes:
        shifted: PSI from which a feature counts as shifted, > 0.
        far: PSI from which a feature counts as far off, >= shifted.
        min_rows: with fewer rows there is no verdict: with 100 rows, chance alone gives a PSI of 0.1.
    """

    shifted: float
    far: float
    min_rows: int


@dataclass(frozen=True)
class FeatureReference:
    """The distribution of one feature in the training data of a model.

    A number has a bin between each two edges, lower edge included: n edges make n + 1 bins. A date is the number of its
    day. A category has one bin per known value and one for all others. The last bin counts nulls.

    Attributes:
        counts: rows in each bin.
        edges: ascending bin edges of a number; empty for a category.
        categories: known categories in the order of their bins; empty for a number.
        span: minimum and maximum of a number.
        dates: whether the numbers are days since 1970.
    """

    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    span: tuple[float, float] = (0.0, 0.0)
    dates: bool = False

    @property
    def missing_rate(self) -> float:
        """Share of nulls, 0..1."""
        return self.counts[-1] / sum(self.counts)

    @property
    def labels(self) -> list[str]:
        """Human-readable label of each bin."""
        return bin_labels(edges=self.edges, categories=self.categories, dates=self.dates)

    def count(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Count values per bin. Shape (n,) to shape (bins,)."""
        missing = is_null(values)
        known = values[~missing]
        if self.categories:
            numbers = np.full(len(known), len(self.categories))
            for number, category in enumerate(self.categories):
                numbers[known == category] = number
        else:
            numbers = np.searchsorted(self.edges, _numbers(known), side="right")
        counted = np.bincount(numbers, minlength=len(self.counts) - 1)
        return np.append(counted, missing.sum()).astype(np.int64)

    def count_outside(self, values: NDArray[Any]) -> int:
        """Count values that the training data did not contain: unknown categories, or numbers outside its span.

        If the training data had values of other categories, these are not unknown.
        """
        known = values[~is_null(values)]
        if self.categories:
            return 0 if self.counts[-2] else int((~np.isin(known.astype(str), self.categories)).sum())
        numbers = _numbers(known)
        return int(((numbers < self.span[0]) | (numbers > self.span[1])).sum())


@dataclass(frozen=True)
class Reference:
    """The distribution of every monitored feature in the training data of a model; stored with the model version."""

    features: Mapping[str, FeatureReference]

    @classmethod
    def of(cls, columns: Columns, schema: CustomerSchema) -> Reference:
        """Return the reference of training rows.

        Args:
            columns: those that are monitored, shape (n,), with nulls as they came and out-of-fold scores.
            schema: of the customers.
        """
        features = {name: _feature(columns[name], schema.column(name)) for name in schema.inputs}
        return cls({**features, SCORE: _number(columns[SCORE])})

    def to_json(self) -> dict[str, object]:
        """Return the reference as plain data."""
        return {name: asdict(feature) for name, feature in self.features.items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Mapping[str, Any]]) -> Reference:
        """Return the reference that `to_json` wrote, also after a round trip through JSON."""
        return cls(
            {
                name: FeatureReference(
                    counts=tuple(feature["counts"]),
                    edges=tuple(feature["edges"]),
                    categories=tuple(feature["categories"]),
                    span=(feature["span"][0], feature["span"][1]),
                    dates=feature["dates"],
                )
                for name, feature in plain.items()
            }
        )


@dataclass(frozen=True)
class ObservedFeature:
    """The distribution of one feature in predictions.

    Attributes:
        counts: rows in each bin of the reference.
        outside: rows that `FeatureReference.count_outside` counts.
        weight: how many predictions each row represents; 1 unless the rows are a sample.
    """

    counts: tuple[int, ...]
    outside: int
    weight: float = 1.0

    @property
    def rows(self) -> int:
        """Number of rows that were counted."""
        return sum(self.counts)

    @property
    def missing_rate(self) -> float:
        """Share of nulls, 0..1."""
        return self.counts[-1] / max(self.rows, 1)

    @property
    def out_of_range_rate(self) -> float:
        """Share of values that the training data did not contain, 0..1."""
        return self.outside / max(self.rows, 1)


@dataclass(frozen=True)
class Drift:
    """The distance between a feature and its reference.

    Attributes:
        psi: population stability index, >= 0.
        p_value: p-value of a chi-squared test that both have the same distribution, 0..1.
        rows: number of observed rows.
    """

    psi: float
    p_value: float
    rows: int

    def verdict(self, thresholds: Thresholds) -> Verdict:
        """Return SHIFTED or FAR only if the PSI is above its threshold and the test rules out chance."""
        if self.rows < thresholds.min_rows:
            return Verdict.TOO_FEW
        if self.p_value >= SIGNIFICANCE or self.psi < thresholds.shifted:
            return Verdict.STABLE
        return Verdict.FAR if self.psi >= thresholds.far else Verdict.SHIFTED


def count_features(reference: Reference, columns: Columns, *, weight: float = 1.0) -> dict[str, ObservedFeature]:
    """Count predictions in the bins of the reference.

    A feature that only one of them has is left out: its column joined or left the schema after the training.

    Args:
        reference: the reference of the model version that made the predictions.
        columns: the monitored ones, shape (n,).
        weight: how many predictions each row represents.
    """
    return {
        name: ObservedFeature(
            tuple(feature.count(columns[name]).tolist()), feature.count_outside(columns[name]), weight
        )
        for name, feature in reference.features.items()
        if name in columns
    }


def measure_drift(reference: FeatureReference, observed: ObservedFeature) -> Drift:
    """Return the distance of the observed rows from the reference.

    PSI = sum over the bins of (q - p) ln(q / p), where p and q are the shares of the reference and of the observed
    rows. The test is the chi-squared test of homogeneity.
    """
    from scipy.stats import chi2_contingency  # 0.5 s to import

    expected, found = np.array(reference.counts, np.float64), np.array(observed.counts, np.float64)
    nonempty = (expected + found) > 0
    if observed.rows == 0 or nonempty.sum() < 2:
        return Drift(0.0, 1.0, observed.rows)
    p, q = _shares(expected[nonempty]), _shares(found[nonempty])
    test = chi2_contingency(np.stack([expected[nonempty], found[nonempty]]), correction=False)
    return Drift(float(((q - p) * np.log(q / p)).sum()), float(test.pvalue), observed.rows)


def merge(parts: Sequence[ObservedFeature]) -> ObservedFeature:
    """Merge several periods into one. Each is weighted with the number of predictions that its sample represents.

    The merged counts are scaled so that their sum is the number of sampled rows. Otherwise the statistics would be more
    certain than the samples allow.
    """
    total = sum(part.rows for part in parts)
    weighted = reduce(np.add, (np.array(part.counts) * part.weight for part in parts))
    outside = sum(part.outside * part.weight for part in parts)
    represented = float(weighted.sum())
    scale = total / represented if represented else 0.0
    counts = tuple(round(count) for count in (weighted * scale).tolist())
    return ObservedFeature(counts, round(outside * scale), 1 / scale if scale else 1.0)


def _feature(values: NDArray[Any], column: Column) -> FeatureReference:
    return _category(values, column) if column.kind == "category" else _number(values, dates=column.kind == "date")


def _number(values: NDArray[Any], *, dates: bool = False) -> FeatureReference:
    known = _numbers(values[~is_null(values)])
    distinct = np.unique(known)
    if not len(distinct):
        return FeatureReference((0, len(values)), dates=dates)
    if len(distinct) <= MAX_DISCRETE_VALUES and (distinct == np.rint(distinct)).all():
        edges = distinct[1:]
    else:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, QUANTILE_BINS + 1)[1:-1]))
        edges = edges[edges > distinct[0]]  # where many values are 0, say, several quantiles equal the minimum
    span = (float(distinct[0]), float(distinct[-1]))
    empty = FeatureReference((0,) * (len(edges) + 2), edges=tuple(edges.tolist()), span=span, dates=dates)
    return replace(empty, counts=tuple(empty.count(values).tolist()))


def _category(values: NDArray[Any], column: Column) -> FeatureReference:
    found = {str(value) for value in values[~is_null(values)]}
    categories = tuple(sorted(found.intersection(column.categories))) or column.categories
    empty = FeatureReference((0,) * (len(categories) + 2), categories=categories)
    return replace(empty, counts=tuple(empty.count(values).tolist()))


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return numbers as they are, and dates as days since 1970."""
    return (values.astype("datetime64[D]") if values.dtype.kind == "M" else values).astype(np.float64)


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((counts + SMOOTHING) / (counts + SMOOTHING).sum())
