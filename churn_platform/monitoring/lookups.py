"""The data that monitoring reads: references, samples of an hour, labelled predictions, exceeded thresholds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from churn_platform.database import (
    batch_hours,
    churn_predictions,
    model_references,
    model_versions,
    monitoring_results,
    shadow_predictions,
    stored_outcomes,
)
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.monitoring.drift import Reference
from churn_platform.monitoring.live_performance import SCORE_BINS, Counts, Tally
from churn_platform.monitoring.verdicts import SCORE, Z_95, Verdict
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema

HOUR: Final = timedelta(hours=1)
# The sample of an hour has about SAMPLED_ROWS predictions, from batches with about SCANNED_ROWS predictions. Reading it
# takes half a second at most, and 50,000 customers determine the PSI of a feature to 0.001.
SAMPLED_ROWS: Final = 50_000
SCANNED_ROWS: Final = 1_000_000
HASHES: Final = 65_536


@dataclass(frozen=True)
class Sample:
    """A sample of the predictions of an hour.

    Attributes:
        version: the hour's version in dirty_hours when the sample was taken.
        weight: how many predictions each of them stands for.
        columns: model version -> raw column or score -> shape (n,), nulls as NaN, NaT or None.
    """

    version: int
    weight: float
    columns: Mapping[int, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Crossing:
    """A bound that the champion has crossed: the day, the cause ("drift" or "performance"), and a description."""

    day: date
    cause: str
    description: str


def crossings(connection: psycopg.Connection, *, since: date, auc_loss: float) -> list[Crossing]:
    """Return the bounds that the champion has crossed on its latest evaluated day, unless that is before `since`.

    Args:
        connection: to the platform's database.
        since: the earliest day to return.
        auc_loss: see LivePerformance.is_worse_than.
    """
    far = monitoring_results.drift_of_champion(connection, since=since, verdict=Verdict.FAR, no_verdict=Verdict.TOO_FEW)
    low = monitoring_results.low_performance_of_champion(connection, since=since, loss=auc_loss, z=Z_95)
    found = []
    if far:
        day = far[0][0]
        features = ", ".join(f"{feature} (PSI {psi:.2f})" for _, feature, psi in far)
        found.append(Crossing(day, "drift", f"drift of {features} on {day}"))
    if low is not None:
        day, auc, expected = low
        found.append(Crossing(day, "performance", f"live ROC AUC {auc:.3f} on {day}, expected {expected:.3f}"))
    return found


def new_outcomes(connection: psycopg.Connection, day: date, *, known: datetime | None) -> datetime | None:
    """Return when the newest outcome arrived, if the live performance of this day does not include it, else None.

    Args:
        connection: to the platform's database.
        day: of the live performance.
        known: time of the newest outcome that is known, for a day without a row because no prediction has an outcome.
    """
    newest = stored_outcomes.newest_received(connection)
    included = monitoring_results.live_performance_updated(connection, day) or known
    return None if newest is None or (included is not None and newest <= included) else newest


def save_reference(connection: psycopg.Connection, version: int, reference: Reference) -> None:
    """Store the reference of a registered version. Storing it again changes nothing."""
    model_references.save(connection, version, reference.to_json())


def references(connection: psycopg.Connection, versions: Iterable[int]) -> dict[int, Reference]:
    """Return the references of these versions, where there are any."""
    found = model_references.find(connection, versions)
    return {version: Reference.from_json(reference) for version, reference in found.items()}


def expected_aucs(connection: psycopg.Connection, versions: Iterable[int]) -> dict[int, float]:
    """Return the out-of-fold ROC AUC of these versions, where it is known."""
    found = model_versions.metrics_of(connection, versions)
    return {version: float(metrics["oof_roc_auc"]) for version, metrics in found.items() if "oof_roc_auc" in metrics}


def sample_hour(
    connection: psycopg.Connection,
    schema: CustomerSchema,
    hour: datetime,
    *,
    rows: int = SAMPLED_ROWS,
    scanned_rows: int = SCANNED_ROWS,
) -> Sample:
    """Return at most about `rows` predictions of an hour, from batches spread evenly over it. They are always the same.

    Args:
        connection: in a repeatable read transaction, so that the version is that of the rows.
        schema: of the customers.
        hour: its start.
        rows: approximate maximum size of the sample.
        scanned_rows: approximate maximum number of predictions in the batches that are read.
    """
    version = batch_hours.version_of_hour(connection, hour)
    batches = batch_hours.predictions_by_batch(connection, hour)
    total = sum(batches.values())
    chosen = list(batches)[:: max(1, -(-total // scanned_rows))]
    scanned = sum(batches[batch] for batch in chosen)
    share = min(1.0, rows / scanned) if scanned else 1.0
    sampled = churn_predictions.sample_rows(
        connection,
        [prediction_table(schema).of_field(name) for name in schema.inputs],
        start=hour,
        end=hour + HOUR,
        batches=chosen,
        hashes=round(share * HASHES),
    )
    return Sample(
        version=version,
        weight=total / len(sampled) if sampled else 1.0,
        columns=_by_version(sampled, schema),
    )


def labelled(connection: psycopg.Connection, start: datetime, end: datetime) -> dict[int, tuple[Counts, Tally]]:
    """Count the predictions of events in [start, end) whose outcome is known, by model version."""
    counted: dict[int, tuple[Counts, Tally]] = {}
    for version, number, churned, rows, scores, predicted, error in monitoring_results.count_labelled(
        connection, start=start, end=end, bins=SCORE_BINS
    ):
        counts, tally = counted.get(version) or (Counts(*(np.zeros(SCORE_BINS) for _ in range(3))), Tally(0, 0, 0.0))
        (counts.left if churned else counts.stayed)[number] += rows
        counts.scores[number] += scores
        counted[version] = (
            counts,
            Tally(
                predicted=tally.predicted + predicted,
                predicted_and_left=tally.predicted_and_left + (predicted if churned else 0),
                squared_error=tally.squared_error + error,
            ),
        )
    return counted


def delete_old(connection: psycopg.Connection, *, before: datetime) -> dict[str, int]:
    """Delete the drift of hours, outcomes, refused outcomes and scores of shadows from before this time.

    The results per day stay.

    Args:
        connection: to the platform's database.
        before: a midnight, UTC, so that no day is computed from only some of its hours.

    Returns:
        How many rows of each were deleted.
    """
    return {
        "drift_rows": monitoring_results.delete_drift_of_hours(connection, before=before),
        "outcomes": stored_outcomes.delete_outcomes(connection, before=before),
        "refused": stored_outcomes.delete_refused(connection, before=before),
        "readings": stored_outcomes.delete_readings(connection, before=before),
        "shadow_predictions": shadow_predictions.delete_before(connection, before),
    }


def _by_version(rows: list[tuple[Any, ...]], schema: CustomerSchema) -> dict[int, dict[str, NDArray[Any]]]:
    if not rows:
        return {}
    version, *values, scores = zip(*rows, strict=True)
    versions = np.array(version)
    columns = {
        name: np.array(column, _dtype(schema.column(name)))  # None becomes NaN or NaT
        for name, column in zip(schema.inputs, values, strict=True)
    }
    columns[SCORE] = np.array(scores, np.float64)
    return {
        int(each): {name: column[versions == each] for name, column in columns.items()} for each in np.unique(versions)
    }


def _dtype(column: Column) -> str:
    return {"category": "object", "date": "datetime64[D]"}.get(column.kind, "float64")
