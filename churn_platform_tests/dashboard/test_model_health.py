"""The answer to whether a model is still good follows the rules of the checks."""

from dataclasses import replace
from datetime import date

import pytest

from churn_platform.dashboard.model_health import State, assess
from churn_platform.database.pages.model import FeatureDrift, LiveDay

DAY = date(2026, 11, 28)
LIVE = LiveDay(
    date=DAY,
    model_version=3,
    window_days=30,
    labelled=3_412,
    churned=702,
    roc_auc=0.861,
    roc_auc_error=0.008,
    expected_roc_auc=0.867,
    precision=0.64,
    recall=0.61,
    brier=0.104,
    ece=0.014,
    mean_score=0.211,
    churn_rate=0.206,
)
STABLE = FeatureDrift(DAY, "Age", 2_000, 3.0, [1_000, 1_000, 0], 0.02, 0.4, "stable", 0.0, 0.0)
SHIFTED = replace(STABLE, feature="Tenure", psi=0.14, p_value=0.0, verdict="shifted")
FAR = replace(STABLE, feature="Balance", psi=0.31, p_value=0.0, verdict="far")
TOO_FEW = replace(STABLE, sampled=12, verdict="too few")


@pytest.mark.parametrize(
    ("live", "drift", "state", "answer"),
    [
        (LIVE, [STABLE], State.GOOD, "Yes"),
        (LIVE, [], State.GOOD, "Yes"),
        (replace(LIVE, roc_auc=0.80), [STABLE], State.BAD, "No"),
        (replace(LIVE, roc_auc=0.80, roc_auc_error=0.05), [STABLE], State.GOOD, "Yes"),  # chance explains it
        (replace(LIVE, ece=0.06), [STABLE], State.WATCH, "Not quite"),
        (LIVE, [SHIFTED, STABLE], State.WATCH, "Not quite"),
        (LIVE, [FAR, SHIFTED], State.BAD, "No"),
        (None, [STABLE], State.UNKNOWN, "So far as is known, yes"),
        (replace(LIVE, labelled=150), [STABLE], State.UNKNOWN, "So far as is known, yes"),
        (replace(LIVE, expected_roc_auc=None), [TOO_FEW], State.UNKNOWN, "So far as is known, yes"),
        (None, [TOO_FEW], State.UNKNOWN, "Not known yet"),
        (None, [], State.UNKNOWN, "Not known yet"),
    ],
)
def test_the_answer_follows_from_performance_calibration_and_drift(
    live: LiveDay | None, drift: list[FeatureDrift], state: State, answer: str
) -> None:
    found = assess(3, live, drift, auc_loss=0.05, names={"Age": "Age"})
    assert (found.state, found.answer) == (state, answer)


def test_the_sentence_names_what_is_wrong_and_what_is_not_known() -> None:
    found = assess(3, replace(LIVE, labelled=150), [FAR, SHIFTED], auc_loss=0.05, names={"Balance": "Money"})
    assert "its customers are far from the training data in Money" in found.text
    assert "Not known: how well it ranks customers now; whether its scores match the churn rate." in found.text
    assert "150 outcomes are known, and at least 200 are needed." in found.findings[0].evidence


def test_scores_that_do_not_match_are_too_high_or_too_low() -> None:
    high = assess(3, replace(LIVE, ece=0.1, mean_score=0.3), [STABLE], auc_loss=0.05, names={})
    low = assess(3, replace(LIVE, ece=0.1, mean_score=0.1), [STABLE], auc_loss=0.05, names={})
    assert "its scores are too high" in high.text
    assert "its scores are too low" in low.text
