"""A small model in a database, with its evaluation, drift and live performance, as the assets leave them."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import cache

import numpy as np
import psycopg

from churn_platform.dashboard.formats import day
from churn_platform.database import model_evaluations, model_versions
from churn_platform.features.columns import columns_of
from churn_platform.modeling.evaluation import evaluate as measure
from churn_platform.modeling.report import Report
from churn_platform.modeling.reporting import make_report
from churn_platform.monitoring import evaluation, lookups
from churn_platform.monitoring.drift import Reference, Thresholds, count_features
from churn_platform.monitoring.live_performance import LivePerformance
from churn_platform.monitoring.verdicts import SCORE
from churn_platform_tests.features.customers import BANK, cleaned, inputs
from churn_platform_tests.scoring.bundles import small_bundle

THRESHOLDS = Thresholds(shifted=0.1, far=0.25, min_rows=500)
LIVE = LivePerformance(
    labelled=3_412,
    churned=702,
    roc_auc=0.861,
    roc_auc_error=0.008,
    precision=0.64,
    recall=0.61,
    brier=0.104,
    ece=0.014,
    mean_score=0.211,
    churn_rate=0.2057,
)
EXPECTED = 0.867


def today() -> date:
    """The present day, UTC."""
    return datetime.now(UTC).date()


def day_text(*, days_ago: int) -> str:
    """A day as pages write it."""
    return day(today() - timedelta(days=days_ago))


@cache
def small_report() -> Report:
    """The evaluation of the small bundle on customers that it was not trained on."""
    return make_report(small_bundle(), cleaned(), cleaned(1_000, seed=11))


@cache
def small_metrics() -> Mapping[str, float]:
    """The metrics of the small bundle, as model_versions has them after the evaluation."""
    rows = cleaned(1_000, seed=11)
    bundle = small_bundle()
    found = measure(rows[BANK.target].to_numpy(), bundle.score(inputs(rows)), threshold=bundle.threshold)
    return {**bundle.metrics, **found.as_dict(), "threshold": bundle.threshold}


@cache
def small_reference() -> Reference:
    """The distributions of 4,000 customers and scores."""
    return Reference.of(_columns(4_000, seed=1), BANK)


def add_version(connection: psycopg.Connection, version: int, *, is_evaluated: bool = True) -> None:
    """Register a version with its training data, and with its evaluation unless it has none yet."""
    metrics = small_metrics()
    model_versions.register(
        connection, version=version, uri=f"/bundles/{version}", run_id=f"run-{version}", metrics=metrics
    )
    lookups.save_reference(connection, version, small_reference())
    if is_evaluated:
        model_evaluations.save(connection, version, small_report().as_dict())


def add_drift(
    connection: psycopg.Connection,
    version: int,
    *,
    older: float = 0.0,
    days_ago: int = 0,
    customers: int = 2_000,
    missing_ages: float = 0.0,
) -> None:
    """Store the drift of a day on which all customers were this many years older than those of the training."""
    columns = _columns(customers, seed=20 + days_ago)
    columns["Age"] = np.minimum(columns["Age"] + older, 120)
    columns["Age"][: round(missing_ages * customers)] = np.nan
    observed = count_features(small_reference(), columns, weight=3.0)
    for row in evaluation.evaluate(version, small_reference(), observed, THRESHOLDS):
        values = {**asdict(row), "date": today() - timedelta(days=days_ago)}
        connection.execute(
            "insert into drift_daily (date, model_version, feature, sampled, weight, counts, outside, psi, p_value, "
            "verdict, missing_rate, out_of_range_rate, version) values (%(date)s, %(model_version)s, %(feature)s, "
            "%(sampled)s, %(weight)s, %(counts)s, %(outside)s, %(psi)s, %(p_value)s, %(verdict)s, %(missing_rate)s, "
            "%(out_of_range_rate)s, 1)",
            values,
        )


def add_live_performance(
    connection: psycopg.Connection, version: int, performance: LivePerformance = LIVE, *, days_ago: int = 0
) -> None:
    """Store the live performance of a day."""
    connection.execute(
        "insert into live_performance (date, model_version, window_days, labelled, churned, roc_auc, roc_auc_error, "
        'expected_roc_auc, "precision", recall, brier, ece, mean_score, churn_rate) values (%(date)s, %(version)s, 30, '
        "%(labelled)s, %(churned)s, %(roc_auc)s, %(roc_auc_error)s, %(expected)s, %(precision)s, %(recall)s, "
        "%(brier)s, %(ece)s, %(mean_score)s, %(churn_rate)s)",
        {
            **performance.as_dict(),
            "version": version,
            "expected": EXPECTED,
            "date": today() - timedelta(days=days_ago),
        },
    )


def _columns(rows: int, *, seed: int) -> dict[str, np.ndarray]:
    """Return customers of the generator, and scores that do not depend on them."""
    found = columns_of(cleaned(rows + rows // 10, seed), BANK.inputs)
    scores = np.random.default_rng(seed).beta(1, 4, rows)
    return {**{name: np.array(values[:rows]) for name, values in found.items()}, SCORE: scores}
