"""The figures of a comparison equal those of scikit-learn and SciPy; its intervals are as wide as a bootstrap's."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from churn_platform.challengers.comparison import ShadowComparison, auc_difference, compare, ks_statistic, psi
from churn_platform.challengers.report import figures, sentences
from churn_platform.modeling.resampling import bootstrapped_aucs

EVENTS = 3_000


@pytest.fixture(scope="module")
def outcomes() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]:
    """Scores of a challenger and of a champion, with ties, and whether each customer left."""
    generator = np.random.default_rng(7)
    risk = generator.beta(2, 5, EVENTS)
    champion = np.clip(risk + generator.normal(0, 0.15, EVENTS), 0.001, 0.999).round(2)
    challenger = np.clip(risk + generator.normal(0, 0.1, EVENTS), 0.001, 0.999).round(2)
    return challenger.astype("f4"), champion.astype("f4"), (generator.random(EVENTS) < risk).astype("i1")


@pytest.fixture(scope="module")
def found(outcomes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]) -> ShadowComparison:
    """The comparison of two events of each customer; the second one is the latest."""
    challenger, champion, left = (each.tolist() for each in outcomes)
    pairs = [
        (number // 2, risk, other, number % 2 == 1)
        for number, (risk, other) in enumerate(zip(challenger, champion, strict=True))
    ]
    comparison = compare(pairs, list(zip(challenger, champion, left, strict=True)), model_version=4, threshold=0.5)
    assert comparison is not None
    return comparison


def test_performance_is_that_of_scikit_learn(
    found: ShadowComparison, outcomes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]
) -> None:
    challenger, champion, left = (each.astype(np.float64) for each in outcomes)

    assert found.labelled is not None
    assert found.labelled.roc_auc is not None
    for measured, metric in (
        (found.labelled.roc_auc, roc_auc_score),
        (found.labelled.brier, brier_score_loss),
        (found.labelled.log_loss, log_loss),
    ):
        assert measured.challenger == pytest.approx(metric(left, challenger), abs=1e-12)
        assert measured.champion == pytest.approx(metric(left, champion), abs=1e-12)
        assert measured.difference.value == pytest.approx(measured.challenger - measured.champion, abs=1e-12)
        assert measured.difference.low < measured.difference.value < measured.difference.high


def test_the_interval_of_the_auc_difference_has_the_width_of_a_bootstraps(
    outcomes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]],
) -> None:
    challenger, champion, left = outcomes

    _, _, error = auc_difference(left == 1, challenger.astype(np.float64), champion.astype(np.float64))

    resampled = bootstrapped_aucs(left, challenger, champion)
    assert error == pytest.approx((resampled[0] - resampled[1]).std(), rel=0.1)


def test_distributions_are_compared(
    found: ShadowComparison, outcomes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]
) -> None:
    challenger, champion, _ = outcomes

    assert found.ks == pytest.approx(ks_2samp(challenger, champion).statistic, abs=1e-12)
    assert found.challenger.mean == pytest.approx(challenger.mean(), abs=1e-6)
    assert found.challenger.quantiles[2] == pytest.approx(np.median(challenger), abs=1e-6)
    assert found.champion.high_risk == pytest.approx((champion >= 0.5).mean())
    assert sum(found.champion.counts) == EVENTS


def test_agreement_counts_customers_by_their_latest_event(
    found: ShadowComparison, outcomes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]
) -> None:
    challenger, champion = (each[1::2] >= 0.5 for each in outcomes[:2])

    assert found.customers == EVENTS // 2
    assert found.agreement.both == (challenger & champion).sum()
    assert found.agreement.only_challenger == (challenger & ~champion).sum()
    assert found.agreement.only_champion == (champion & ~challenger).sum()
    assert sum(vars(found.agreement).values()) == EVENTS // 2


def test_psi_and_ks_are_0_for_equal_scores_and_large_for_others() -> None:
    scores = np.random.default_rng(1).beta(2, 5, 5_000).astype(np.float32)

    assert (psi(scores, scores), ks_statistic(scores, scores)) == (0.0, 0.0)
    assert psi(1 - scores, scores) > 1
    assert psi(np.full(100, 0.5, np.float32), np.full(100, 0.5, np.float32)) == 0.0


def test_without_outcomes_the_performance_is_left_open() -> None:
    comparison = compare([(1, 0.2, 0.3, True)], [], model_version=4, threshold=0.5)

    assert comparison is not None
    assert comparison.labelled is None
    assert "cannot be compared yet" in sentences(comparison.as_dict())[-1]
    assert compare([], [], model_version=4, threshold=0.5) is None


def test_the_report_has_each_figure_of_both_models(found: ShadowComparison) -> None:
    names = [name for name, _, _ in figures(found.as_dict())]

    assert names[0] == "mean risk score"
    assert names[-3:] == ["ROC AUC", "Brier score", "log loss"]
    assert sum("95 % confidence interval" in sentence for sentence in sentences(found.as_dict())) == 3
