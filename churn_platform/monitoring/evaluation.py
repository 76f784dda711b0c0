"""Rows of the drift tables: observed features compared with the reference of their model version. Pure; no I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from churn_platform.monitoring.drift import (
    ObservedFeature,
    Reference,
    Thresholds,
    count_features,
    measure_drift,
    merge,
)
from churn_platform.monitoring.verdicts import NO_REFERENCE, SCORE


@dataclass(frozen=True)
class DriftRow:
    """The drift of one feature of one model version: a row of a drift table without its hour or day."""

    model_version: int
    feature: str
    sampled: int
    weight: float
    counts: list[int]
    outside: int
    psi: float | None
    p_value: float | None
    verdict: str
    missing_rate: float
    out_of_range_rate: float


def count_sample(
    reference: Reference | None, columns: Mapping[str, NDArray[Any]], *, weight: float
) -> dict[str, ObservedFeature]:
    """Count the predictions of one model version in the bins of its reference.

    Without a reference there are no bins, so only the number of predictions is counted.

    Args:
        reference: the reference of the version, if it has one.
        columns: raw columns and the score, shape (n,).
        weight: how many predictions each sampled one represents.
    """
    if reference is None:
        return {SCORE: ObservedFeature((len(columns[SCORE]),), 0, weight)}
    return count_features(reference, columns, weight=weight)


def evaluate(
    version: int,
    reference: Reference | None,
    observed: Mapping[str, ObservedFeature],
    thresholds: Thresholds,
) -> list[DriftRow]:
    """Compare every observed feature of a model version with its reference.

    Without a reference, the rows have no PSI and the verdict NO_REFERENCE.
    """
    return [_evaluate_feature(version, name, each, reference, thresholds) for name, each in observed.items()]


def merge_hours(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, ObservedFeature]]:
    """Merge the hours of a day. From rows of drift_hourly to model version -> feature -> merged counts."""
    parts: dict[tuple[int, str], list[ObservedFeature]] = {}
    for row in rows:
        each = ObservedFeature(tuple(row["counts"]), int(row["outside"]), float(row["weight"]))
        parts.setdefault((int(row["model_version"]), str(row["feature"])), []).append(each)
    merged: dict[int, dict[str, ObservedFeature]] = {}
    for (version, feature), observed in parts.items():
        merged.setdefault(version, {})[feature] = merge(observed)
    return merged


def _evaluate_feature(
    version: int, name: str, observed: ObservedFeature, reference: Reference | None, thresholds: Thresholds
) -> DriftRow:
    drift = None if reference is None else measure_drift(reference.features[name], observed)
    return DriftRow(
        model_version=version,
        feature=name,
        sampled=observed.rows,
        weight=observed.weight,
        counts=list(observed.counts),
        outside=observed.outside,
        psi=None if drift is None else drift.psi,
        p_value=None if drift is None else drift.p_value,
        verdict=NO_REFERENCE if drift is None else drift.verdict(thresholds).value,
        missing_rate=observed.missing_rate,
        out_of_range_rate=observed.out_of_range_rate,
    )
