"""Thresholds, figures, and who becomes champion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from churn_platform.features.columns import TARGET, columns_of
from churn_platform.modeling.candidates import Comparison, Gain, Rule, TrainedModel, Worth, decide, measure_gain
from churn_platform.modeling.comparison import Contender, compare
from churn_platform.modeling.evaluation import Evaluation, evaluate, expected_calibration_error
from churn_platform.modeling.exceptions import BundleIncompleteError, StaleComparisonError, TrainingDataError
from churn_platform.modeling.out_of_fold import OutOfFold, unseen_probabilities
from churn_platform.modeling.resampling import auc
from churn_platform.modeling.slices import LEAST_OF_EACH, judgeable_slices, slices
from churn_platform.modeling.threshold import CallCosts, choose_threshold, f1_maximising_threshold, worth_of_calls
from churn_platform_tests.features.customers import cleaned
from churn_platform_tests.scoring.bundles import small_bundle


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
        "test_ece": pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4),
    }


def test_the_calibration_error_is_how_far_bins_of_equal_count_are_from_what_happened() -> None:
    churned = np.tile([1, 0, 0, 0, 0], 200)

    assert expected_calibration_error(churned, np.full(1000, 0.2)) == pytest.approx(0)
    assert expected_calibration_error(churned, np.full(1000, 0.5)) == pytest.approx(0.3)


def profit(churned: NDArray[np.int64], called: NDArray[np.bool_], costs: CallCosts) -> float:
    """Profit from its definition."""
    return float((churned & called).sum()) * costs.success_rate * costs.customer - float(called.sum()) * costs.call


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=60).filter(
        lambda rows: any(churned for churned, _ in rows)
    )
)
def test_no_threshold_brings_more_than_the_one_chosen_by_cost(rows: list[tuple[int, int]]) -> None:
    churned = np.array([row[0] for row in rows])
    probabilities = np.array([row[1] for row in rows], np.float32) / np.float32(20)
    costs = CallCosts(call=1, customer=300, success_rate=0.25)

    chosen = choose_threshold(churned, probabilities, costs)

    best = max(profit(churned, probabilities >= threshold, costs) for threshold in probabilities)
    assert profit(churned, probabilities >= chosen, costs) == pytest.approx(best)


def test_dear_calls_raise_the_threshold_and_calls_that_never_pay_are_refused() -> None:
    churned, probabilities = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.7, 0.6, 0.5, 0.1])

    cheap, dear = (choose_threshold(churned, probabilities, CallCosts(call, 10, 1)) for call in (1, 9))

    assert (cheap, dear) == (0.6, 0.9)
    with pytest.raises(TrainingDataError, match=r"a call costs 11.*brings 1 of 10.*CALL_COST"):
        choose_threshold(churned, probabilities, CallCosts(11, 10, 1))


def figures(roc_auc: float) -> Evaluation:
    """Figures that differ in ROC AUC only."""
    return Evaluation(accuracy=0.8, precision=0.6, recall=0.6, f1=0.6, roc_auc=roc_auc, brier=0.1, ece=0.01)


RULE = Rule(confidence=0.95, slice_loss=0.02)


def comparison(low: float | None = None, **slices: float) -> Comparison:
    """Version 5, against version 4 if there is a gain to state: so much at least, and so much in each slice."""
    if low is None:
        return Comparison(version=5, rows=900, rule=RULE, candidate=figures(0.86))
    gain = Gain(auc=low + 0.002, low=low, high=low + 0.004, slices=slices)
    return Comparison(5, 900, RULE, figures(0.86), 4, figures(0.86 - gain.auc), gain)


def test_the_first_version_becomes_champion() -> None:
    decision = decide(comparison(), champion_version=None, set_by_hand=None)

    assert (decision.version, decision.adopted) == (5, False)
    assert "no champion to compare" in decision.reason


@pytest.mark.parametrize(
    ("judged", "chosen", "said"),
    [
        (comparison(0.001, Spain=-0.02), 5, "better than chance, and no slice loses more than 0.02"),
        (comparison(0.0), 4, "no better than chance: at 95% confidence it may be +0.0000"),
        (comparison(-0.01), 4, "no better than chance: at 95% confidence it may be -0.0100"),
        (comparison(0.001, Spain=-0.021, France=0.1), 4, "Spain loses 0.0210 of ROC AUC, more than the 0.02 allowed"),
    ],
)
def test_a_version_replaces_the_champion_only_when_its_gain_is_no_chance_and_no_slice_pays(
    judged: Comparison, chosen: int, said: str
) -> None:
    decision = decide(judged, champion_version=4, set_by_hand=None)

    assert decision.version == chosen
    assert said in decision.reason


CALLS = CallCosts(call=5, customer=400, success_rate=0.25)


@pytest.mark.parametrize(
    ("low", "worth", "slices", "wins", "said"),
    [
        (0.0, Worth(12.5, 9.0), {}, True, "worth 12.5000 per customer, those of the champion 9.0000: worth more"),
        (-0.001, Worth(12.5, 9.0), {}, True, "no worse in its order than by chance"),
        (0.001, Worth(9.0, 9.0), {}, True, "better than chance"),
        (0.0, Worth(9.0, 9.0), {}, False, "nor are its decisions worth more"),
        (-0.01, Worth(12.5, 9.0), {}, False, "the loss is no chance: at 95% confidence it is 0.0060 or more"),
        (0.0, Worth(12.5, 9.0), {"Spain": -0.03}, False, "Spain loses 0.0300"),
        (0.0, None, {}, False, "no better than chance"),
    ],
)
def test_where_costs_have_changed_decisions_that_are_worth_more_win_over_an_equal_order(
    low: float, worth: Worth | None, slices: dict[str, float], wins: bool, said: str
) -> None:
    judged = replace(comparison(low, **slices), worth=worth, rule=replace(RULE, costs=CALLS))

    assert judged.candidate_wins == wins
    assert said in judged.reason


@pytest.mark.parametrize(("before", "today"), [(None, CALLS), (CALLS, None), (replace(CALLS, call=60.0), CALLS)])
def test_the_same_model_with_the_threshold_of_todays_costs_replaces_the_one_of_other_costs(
    before: CallCosts | None, today: CallCosts | None, tmp_path: Path
) -> None:
    rows = cleaned(2_000)
    churned, unseen = rows[TARGET].to_numpy(), small_bundle().score(columns_of(rows))
    sides = []
    for version, costs in enumerate((before, today, today), 1):
        uri = str(tmp_path / str(version))
        replace(small_bundle(), threshold=choose_threshold(churned, unseen, costs), costs=costs).save(uri)
        OutOfFold.of(rows, unseen).save(uri)
        sides.append(Contender(version, f"run {version}", uri))
    rule = replace(RULE, costs=today)

    promoted, again, back = (
        compare(rows, challenger, champion, rule)
        for challenger, champion in ((sides[1], sides[0]), (sides[2], sides[1]), (sides[0], sides[1]))
    )

    assert promoted.worth is not None
    assert promoted.worth.challenger > promoted.worth.champion
    assert promoted.candidate_wins
    assert (again.worth, again.candidate_wins) == (None, False), "nothing has changed since the champion was trained"
    assert not back.candidate_wins, "a threshold of other costs than today's wins nothing"


def test_the_worth_of_calls_is_profit_per_customer_or_f1() -> None:
    churned, called = np.array([1, 0, 1, 0]), np.array([True, True, False, False])

    assert worth_of_calls(churned, called, CALLS) == (0.25 * 400 - 2 * 5) / 4
    assert worth_of_calls(churned, called, None) == 2 * 1 / (2 + 2)
    assert worth_of_calls(churned[:0], called[:0], CALLS) == worth_of_calls(churned[:0], called[:0], None) == 0


def test_a_champion_chosen_by_hand_is_adopted_however_good_the_new_version_is() -> None:
    decision = decide(comparison(0.1), champion_version=4, set_by_hand=2)

    assert (decision.version, decision.adopted) == (2, True)
    assert "moved by hand to version 2" in decision.reason


def test_a_comparison_with_a_former_champion_decides_nothing() -> None:
    with pytest.raises(StaleComparisonError, match="compared with champion 4, but the champion is now 3"):
        decide(comparison(0.1), champion_version=3, set_by_hand=None)


def test_deciding_twice_keeps_the_champion() -> None:
    assert decide(comparison(0.1), champion_version=5, set_by_hand=None).version == 5


CUSTOMERS = cleaned(2_000)
CHURNED = CUSTOMERS[TARGET].to_numpy()
GENERATOR = np.random.default_rng(3)
# A model that knows something of who churned, and noise of which less is better.
INFORMED = (CHURNED + GENERATOR.normal(0, 1.0, len(CHURNED))).astype(np.float32)
BETTER = (CHURNED + 0.8 * (INFORMED - CHURNED)).astype(np.float32)


def gain_of(challenger: NDArray[np.float32]) -> Gain:
    """Over the informed model."""
    return measure_gain(CUSTOMERS, CHURNED, challenger=challenger, champion=INFORMED, rule=RULE)


def test_a_better_model_gains_more_than_chance_and_an_equal_or_shuffled_one_does_not() -> None:
    better, equal, shuffled = gain_of(BETTER), gain_of(INFORMED), gain_of(GENERATOR.permutation(INFORMED))

    assert 0 < better.low < better.auc < better.high
    assert (equal.auc, equal.low, equal.high) == (0, 0, 0)
    assert shuffled.high < -0.1
    assert better == gain_of(BETTER), "the same every time"


def test_a_model_that_fails_one_slice_shows_there() -> None:
    germany = (CUSTOMERS["Geography"] == "Germany").to_numpy()
    worse = np.where(germany, -BETTER, BETTER).astype(np.float32)

    slices = gain_of(worse).slices

    assert slices["Geography Germany"] < -0.2
    assert slices["Geography France"] > 0
    assert min(slices, key=lambda name: slices[name]) == "Geography Germany"


def test_slices_are_disjoint_within_a_column_and_leave_nobody_out() -> None:
    for column in ("Geography", "Gender", "Age", "NumOfProducts"):
        members = [rows for name, rows in slices(CUSTOMERS) if name.startswith(column)]

        assert (np.sum(members, axis=0) == 1).all()
    assert all(rows.sum() >= 2 * LEAST_OF_EACH for _, rows in judgeable_slices(CUSTOMERS, CHURNED))


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=40).filter(
        lambda rows: len({churned for churned, _ in rows}) == 2
    )
)
def test_our_roc_auc_is_that_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    churned, probabilities = np.array([row[0] for row in rows]), np.array([row[1] for row in rows]) / 5

    assert auc(churned, probabilities) == pytest.approx(roc_auc_score(churned, probabilities))


def test_rows_learnt_from_are_judged_out_of_fold_and_new_ones_by_the_model_itself(tmp_path: Path) -> None:
    bundle, learned, new = small_bundle(), cleaned(), cleaned(50, seed=11)
    recorded = np.linspace(0, 1, len(learned), dtype=np.float32)
    OutOfFold.of(learned, recorded).save(str(tmp_path))

    judged = unseen_probabilities(bundle, OutOfFold.load(str(tmp_path)), pd.concat([new, learned], ignore_index=True))

    np.testing.assert_array_equal(judged[: len(new)], bundle.score(columns_of(new)))
    np.testing.assert_array_equal(judged[len(new) :], recorded)


def test_without_its_record_a_bundle_cannot_be_compared_and_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleIncompleteError, match=r"has no out_of_fold\.parquet.*churn model promote"):
        OutOfFold.load(str(tmp_path))


def test_what_the_assets_hand_on_survives_its_json() -> None:
    model = TrainedModel(version=5, run_id="abc", uri="/models/abc")

    assert TrainedModel.from_json(model.to_json()) == model
    by_worth = replace(comparison(0.1), worth=Worth(2.0, 1.0), rule=replace(RULE, costs=CALLS), run_id="a")
    for handed_on in (comparison(0.1, Spain=0.1), comparison(), by_worth):
        assert Comparison.from_json(handed_on.to_json()) == handed_on
