"""What the dashboard's page about the model reads. Across tables; reads only, and no raw predictions.

Its tables have a few rows for each day and model version, so every query is short whatever the number of predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import psycopg
from psycopg.rows import class_row

_DRIFT: Final = """
    select date, feature, sampled, weight, counts, psi, p_value, verdict, missing_rate, out_of_range_rate
    from drift_daily
    where model_version = %(version)s and date = (
        select date from drift_daily where model_version = %(version)s
        order by verdict = %(no_verdict)s, date desc limit 1
    )
    order by psi desc nulls last, feature
"""
_PSI: Final = """
    select date, feature, psi from drift_daily
    where model_version = %s and feature = any(%s) and date > current_date - %s and psi is not null
    order by date
"""
_LIVE: Final = """
    select date, model_version, window_days, labelled, churned, roc_auc, roc_auc_error, expected_roc_auc, "precision",
        recall, brier, ece, mean_score, churn_rate
    from live_performance
    where model_version = %s and date > current_date - %s
    order by date
"""
_LATEST_LIVE: Final = """
    select distinct on (model_version) date, model_version, window_days, labelled, churned, roc_auc, roc_auc_error,
        expected_roc_auc, "precision", recall, brier, ece, mean_score, churn_rate
    from live_performance
    order by model_version desc, date desc
"""
_PROMOTIONS: Final = """
    select promotion, version, promoted_at, promoted_by, reason
    from model_promotions order by promotion desc limit %s
"""


@dataclass(frozen=True)
class FeatureDrift:
    """The drift of a feature on a day. The comments of drift_daily explain each column."""

    date: date
    feature: str
    sampled: int
    weight: float
    counts: Sequence[int]
    psi: float | None
    p_value: float | None
    verdict: str
    missing_rate: float
    out_of_range_rate: float


@dataclass(frozen=True)
class LiveDay:
    """The performance of a version in the window that ends on a day. live_performance explains each column."""

    date: date
    model_version: int
    window_days: int
    labelled: int
    churned: int
    roc_auc: float | None
    roc_auc_error: float | None
    expected_roc_auc: float | None
    precision: float | None
    recall: float | None
    brier: float
    ece: float
    mean_score: float
    churn_rate: float


@dataclass(frozen=True)
class Promotion:
    """A row of model_promotions."""

    promotion: int
    version: int
    promoted_at: datetime
    promoted_by: str
    reason: str


def latest_drift(connection: psycopg.Connection, version: int, *, no_verdict: str) -> list[FeatureDrift]:
    """Return the drift of a version on its latest day with a verdict, the greatest first.

    Args:
        connection: to the platform's database.
        version: of the model.
        no_verdict: the verdict of a day with too few predictions. Such a day is returned only if there is no other.
    """
    with connection.cursor(row_factory=class_row(FeatureDrift)) as cursor:
        return cursor.execute(_DRIFT, {"version": version, "no_verdict": no_verdict}).fetchall()


def psi_by_day(
    connection: psycopg.Connection, version: int, features: Sequence[str], *, days: int
) -> dict[str, dict[date, float]]:
    """Return feature -> day -> PSI of the last days, today included, in order."""
    found: dict[str, dict[date, float]] = {feature: {} for feature in features}
    for day, feature, psi in connection.execute(_PSI, (version, list(features), days)):
        found[feature][day] = psi
    return found


def live_days(connection: psycopg.Connection, version: int, *, days: int) -> list[LiveDay]:
    """Return the performance of a version on the last days, today included, in order."""
    with connection.cursor(row_factory=class_row(LiveDay)) as cursor:
        return cursor.execute(_LIVE, (version, days)).fetchall()


def latest_live(connection: psycopg.Connection) -> list[LiveDay]:
    """Return the performance of each version on its latest day, the newest version first."""
    with connection.cursor(row_factory=class_row(LiveDay)) as cursor:
        return cursor.execute(_LATEST_LIVE).fetchall()


def promotions(connection: psycopg.Connection, *, limit: int) -> list[Promotion]:
    """Return the latest promotions, the newest first."""
    with connection.cursor(row_factory=class_row(Promotion)) as cursor:
        return cursor.execute(_PROMOTIONS, (limit,)).fetchall()
