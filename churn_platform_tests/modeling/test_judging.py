"""Thresholds, figures, and who becomes champion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from churn_platform.modeling.candidates import Comparison, TrainedModel, decide
from churn_platform.modeling.evaluation import Evaluation, evaluate
from churn_platform.modeling.exceptions import StaleComparisonError, TrainingDataError
from churn_platform.modeling.threshold import f1_maximising_threshold


def f1(churned: NDArray[np.int64], predicted: NDArray[np.bool_]) -> float:
    """F1 from its definition."""
    return 2 * float((churned & predicted).sum()) / float(churned.sum() + predicted.sum())


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=60).filter(
        lambda rows: any(churned for churned, _ in rows)
    )
)
def test_no_threshold_has_a_greater_f1_than_the_chosen_one(rows: list[tuple[int, int]]) -> None:
    churned = np.array([row[0] for row in rows])
    probabilities = np.array([row[1] for row in rows], np.float32) / np.float32(20)

    chosen = f1_maximising_threshold(churned, probabilities)

    best = max(f1(churned, probabilities >= threshold) for threshold in probabilities)
    assert f1(churned, probabilities >= chosen) == pytest.approx(best)


def test_of_equally_good_thresholds_the_highest_is_chosen() -> None:
    assert f1_maximising_threshold(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])) == 0.7
    assert f1_maximising_threshold(np.array([1, 0]), np.array([0.5, 0.5])) == 0.5


def test_without_churners_there_is_no_threshold_and_no_roc_curve() -> None:
    nobody = np.zeros(3, np.int64)

    with pytest.raises(TrainingDataError, match="None of 3 customers churned"):
        f1_maximising_threshold(nobody, np.array([0.1, 0.2, 0.3]))
    with pytest.raises(TrainingDataError, match="All 3 rows have Exited = 0"):
        evaluate(nobody, np.array([0.1, 0.2, 0.3]), threshold=0.5)


def test_figures_are_those_of_their_definitions() -> None:
    figures = evaluate(np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.6, 0.1]), threshold=0.5)

    assert figures.as_dict("test_") == {
        "test_accuracy": 0.5,
        "test_precision": 0.5,
        "test_recall": 0.5,
        "test_f1": 0.5,
        "test_roc_auc": 0.75,
        "test_brier": pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4),
    }


def figures(roc_auc: float) -> Evaluation:
    """Figures that differ in ROC AUC only."""
    return Evaluation(accuracy=0.8, precision=0.6, recall=0.6, f1=0.6, roc_auc=roc_auc, brier=0.1)


def comparison(candidate: float, champion: float | None) -> Comparison:
    """Version 5, against version 4 if there is a champion."""
    return Comparison(
        version=5,
        candidate=figures(candidate),
        champion_version=None if champion is None else 4,
        champion=None if champion is None else figures(champion),
    )


def test_the_first_version_becomes_champion() -> None:
    decision = decide(comparison(0.7, None), champion_version=None, set_by_hand=None)

    assert (decision.version, decision.adopted) == (5, False)
    assert "no champion to compare" in decision.reason


@pytest.mark.parametrize(("candidate", "chosen"), [(0.86, 5), (0.85, 5), (0.84, 4)])
def test_a_version_at_least_as_good_replaces_the_champion(candidate: float, chosen: int) -> None:
    decision = decide(comparison(candidate, 0.85), champion_version=4, set_by_hand=None)

    assert decision.version == chosen
    assert f"{candidate:.4f}" in decision.reason
    assert "0.8500" in decision.reason


def test_a_champion_chosen_by_hand_is_adopted_however_good_the_new_version_is() -> None:
    decision = decide(comparison(0.99, 0.85), champion_version=4, set_by_hand=2)

    assert (decision.version, decision.adopted) == (2, True)
    assert "moved by hand to version 2" in decision.reason


def test_a_comparison_with_a_former_champion_decides_nothing() -> None:
    with pytest.raises(StaleComparisonError, match="compared with champion 4, but the champion is now 3"):
        decide(comparison(0.9, 0.85), champion_version=3, set_by_hand=None)


def test_deciding_twice_keeps_the_champion() -> None:
    assert decide(comparison(0.9, 0.85), champion_version=5, set_by_hand=None).version == 5


def test_what_the_assets_hand_on_survives_its_json() -> None:
    model = TrainedModel(version=5, run_id="abc", uri="/models/abc")

    assert TrainedModel.from_json(model.to_json()) == model
    for handed_on in (comparison(0.9, 0.85), comparison(0.9, None)):
        assert Comparison.from_json(handed_on.to_json()) == handed_on
