"""Rows of the drift tables: what was observed, and what is to be said of it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from churn_platform.monitoring.drift import SCORE, Bounds, Observed, Reference, Verdict, drift, merged, observe

NO_REFERENCE: Final = "no reference"

# The rates at which a check warns, and at which it fails; shares of what was read, 0..1.
MISSING_MORE: Final = (0.05, 0.2)  # more nulls than the model learned from
OUT_OF_RANGE: Final = (0.01, 0.05)
DEAD_LETTERS: Final = (0.02, 0.1)


@dataclass(frozen=True)
class Judged:
    """One feature of one model version: a row of a drift table, less its time."""

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


def collect(reference: Reference | None, columns: Mapping[str, NDArray[Any]], *, weight: float) -> dict[str, Observed]:
    """Rows that a version scored, counted in the bins of its reference; without one, how many there are.

    Args:
        reference: of the version.
        columns: raw columns and the score, shape (n,).
        weight: how many rows each of these stands for.
    """
    if reference is None:
        return {SCORE: Observed((len(columns[SCORE]),), 0, weight)}
    return observe(reference, columns, weight=weight)


def judge(version: int, reference: Reference | None, observed: Mapping[str, Observed], bounds: Bounds) -> list[Judged]:
    """Every observed feature of a version, beside its reference; a version without one is not judged."""
    return [_judged(version, name, each, reference, bounds) for name, each in observed.items()]


def merge_days(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, Observed]]:
    """Model version -> feature -> what its hours observed, as one; from rows of drift_hourly."""
    parts: dict[tuple[int, str], list[Observed]] = {}
    for row in rows:
        each = Observed(tuple(row["counts"]), int(row["outside"]), float(row["weight"]))
        parts.setdefault((int(row["model_version"]), str(row["feature"])), []).append(each)
    found: dict[int, dict[str, Observed]] = {}
    for (version, feature), observed in parts.items():
        found.setdefault(version, {})[feature] = merged(observed)
    return found


def level(rate: float, bounds: tuple[float, float]) -> Verdict:
    """Whether a rate is too high."""
    return Verdict.FAR if rate >= bounds[1] else Verdict.SHIFTED if rate >= bounds[0] else Verdict.STABLE


def _judged(version: int, name: str, observed: Observed, reference: Reference | None, bounds: Bounds) -> Judged:
    found = None if reference is None else drift(reference.features[name], observed)
    return Judged(
        model_version=version,
        feature=name,
        sampled=observed.rows,
        weight=observed.weight,
        counts=list(observed.counts),
        outside=observed.outside,
        psi=None if found is None else found.psi,
        p_value=None if found is None else found.p_value,
        verdict=NO_REFERENCE if found is None else found.verdict(bounds).value,
        missing_rate=observed.missing_rate,
        out_of_range_rate=observed.out_of_range_rate,
    )
