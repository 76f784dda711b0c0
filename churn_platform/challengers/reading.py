"""Reads what a shadow has scored, compares it with the champion, and stores the comparison."""

from typing import Final

import psycopg

from churn_platform.challengers.comparison import ShadowComparison, compare
from churn_platform.database import challengers, shadow_predictions
from churn_platform.modeling.promotion import ShadowRecord

# Events that are compared at most, the newest ones. Reading them takes about a second.
MOST_EVENTS: Final = 500_000
SECONDS_PER_DAY: Final = 86_400


def shadow_record(connection: psycopg.Connection, model_version: int, *, required_days: float) -> ShadowRecord:
    """Return how much a version has scored the stream's events as a shadow.

    Args:
        connection: to the platform's database.
        model_version: of model_versions.
        required_days: SHADOW_DAYS.
    """
    found = challengers.shadowed(connection, model_version)
    days = found.time.total_seconds() / SECONDS_PER_DAY
    return ShadowRecord(model_version, required_days, days, found.events, found.is_active)


def compare_shadow(
    connection: psycopg.Connection, model_version: int, *, threshold: float, most: int = MOST_EVENTS
) -> ShadowComparison | None:
    """Compare what a version has scored as a shadow with the predictions, and store the comparison for the dashboard.

    Args:
        connection: in autocommit mode.
        model_version: that is or was a shadow.
        threshold: risk score from which a customer is at high risk, 0..1.
        most: events that are compared at most, the newest ones; and as many with an outcome.

    Returns:
        The comparison, or None if the version has scored no event as a shadow.
    """
    found = compare(
        shadow_predictions.pairs(connection, model_version, most=most),
        shadow_predictions.labelled(connection, model_version, most=most),
        model_version=model_version,
        threshold=threshold,
    )
    if found is not None:
        shadow_predictions.store_comparison(connection, model_version, found.as_dict())
    return found
