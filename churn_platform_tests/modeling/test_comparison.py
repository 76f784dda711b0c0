"""Thresholds, metrics, the comparison with the champion, and the choice of the champion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from churn_platform.features.cleaning import clean
from churn_platform.model_store import save_bundle
from churn_platform.modeling.comparison import Comparison, DecisionValue, Gain, PromotionRule, compare, measure_gain
from churn_platform.modeling.evaluation import Evaluation, evaluate, expected_calibration_error
from churn_platform.modeling.exceptions import (
    IncomparableModelError,
    StaleComparisonError,
    TrainingDataError,
    WeakFirstModelError,
)
from churn_platform.modeling.out_of_fold import OutOfFold, unseen_probabilities
from churn_platform.modeling.promotion import ShadowRecord, decide
from churn_platform.modeling.resampling import auc
from churn_platform.modeling.slices import MIN_ROWS_OF_EACH_OUTCOME, slices, slices_large_enough
from churn_platform.modeling.threshold import choose_threshold, f1_maximising_threshold, value_of_calls
from churn_platform.modeling.trained_model import TrainedModel
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.costs import CallCosts
from churn_platform.scoring.exceptions import BundleIncompleteError
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, cleaned, inputs
from churn_platform_tests.scoring.bundles import bundle_of, small_bundle

# Outcome and score of up to 60 customers, one of whom at least has churned.
OUTCOMES_AND_SCORES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=60).filter(
    lambda rows: any(churned for churned, _ in rows)
)


def f1(churned: NDArray[np.int64], predicted: NDArray[np.bool_]) -> float:
    """Return F1 by its definition."""
    return 2 * float((churned & predicted).sum()) / float(churned.sum() + predicted.sum())


@settings(deadline=None)
@given(rows=OUTCOMES_AND_SCORES)
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
    with pytest.raises(TrainingDataError, match="All 3 customers stayed"):
        evaluate(nobody, np.array([0.1, 0.2, 0.3]), threshold=0.5)


def test_metrics_agree_with_their_definitions() -> None:
    computed = evaluate(np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.6, 0.1]), threshold=0.5)

    assert computed.as_dict("test_") == {
        "test_accuracy": 0.5,
        "test_precision": 0.5,
        "test_recall": 0.5,
        "test_f1": 0.5,
        "test_roc_auc": 0.75,
        "test_pr_auc": pytest.approx(0.5 * 1 + 0.5 * 2 / 3),
        "test_brier": pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4),
        "test_ece": pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4),
    }


def test_the_calibration_error_is_the_mean_distance_of_bins_from_the_churn_rate() -> None:
    churned = np.tile([1, 0, 0, 0, 0], 200)

    assert expected_calibration_error(churned, np.full(1000, 0.2)) == pytest.approx(0)
    assert expected_calibration_error(churned, np.full(1000, 0.5)) == pytest.approx(0.3)


def profit(churned: NDArray[np.int64], called: NDArray[np.bool_], costs: CallCosts) -> float:
    """Return the profit by its definition."""
    return float((churned & called).sum()) * costs.success_rate * costs.customer - float(called.sum()) * costs.call


@settings(deadline=None)
@given(rows=OUTCOMES_AND_SCORES)
def test_no_threshold_has_more_profit_than_the_one_chosen_by_cost(rows: list[tuple[int, int]]) -> None:
    churned = np.array([row[0] for row in rows])
    probabilities = np.array([row[1] for row in rows], np.float32) / np.float32(20)
    costs = CallCosts(call=1, customer=300, success_rate=0.25)

    chosen = choose_threshold(churned, probabilities, costs)

    best = max(profit(churned, probabilities >= threshold, costs) for threshold in probabilities)
    assert profit(churned, probabilities >= chosen, costs) == pytest.approx(best)


def test_expensive_calls_raise_the_threshold_and_unprofitable_ones_are_an_error() -> None:
    churned, probabilities = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.7, 0.6, 0.5, 0.1])

    cheap, expensive = (choose_threshold(churned, probabilities, CallCosts(call, 10, 1)) for call in (1, 9))

    assert (cheap, expensive) == (0.6, 0.9)
    with pytest.raises(TrainingDataError, match=r"a call costs 11.*brings 1 of 10.*CALL_COST"):
        choose_threshold(churned, probabilities, CallCosts(11, 10, 1))


def metrics(roc_auc: float) -> Evaluation:
    """Return metrics with this ROC AUC."""
    return Evaluation(accuracy=0.8, precision=0.6, recall=0.6, f1=0.6, roc_auc=roc_auc, pr_auc=0.6, brier=0.1, ece=0.01)


RULE = PromotionRule(confidence=0.95, slice_loss=0.02)


def comparison(low: float | None = None, **slices: float) -> Comparison:
    """Compare version 5 with version 4, with this lower bound of the gain and this gain by slice; None: no champion."""
    if low is None:
        return Comparison(version=5, rows=900, rule=RULE, challenger=metrics(0.86), constant_brier=0.16)
    gain = Gain(auc=low + 0.002, low=low, high=low + 0.004, slices=slices)
    return Comparison(
        version=5,
        rows=900,
        rule=RULE,
        challenger=metrics(0.86),
        constant_brier=0.16,
        champion_version=4,
        champion=metrics(0.86 - gain.auc),
        gain=gain,
    )


def test_the_first_version_becomes_champion() -> None:
    decision = decide(comparison(), champion_version=None, set_by_hand=None)

    assert (decision.version, decision.adopted) == (5, False)
    assert "no champion to compare" in decision.reason


@pytest.mark.parametrize(
    ("roc_auc", "least", "constant_brier", "reasons"),
    [
        (0.86, 0.9, 0.16, ["its out-of-fold ROC AUC is 0.8600, and a first model needs 0.9"]),
        (0.86, 0.5, 0.1, ["as good: its Brier score is 0.1000, the model's 0.1000"]),
        (0.86, 0.5, 0.09, ["as good: its Brier score is 0.0900"]),
        (0.6, 0.7, 0.09, ["its Brier score is 0.0900", "ROC AUC is 0.6000, and a first model needs 0.7"]),
    ],
)
def test_a_first_version_has_to_beat_the_constant_prediction_and_the_least_roc_auc(
    roc_auc: float, least: float, constant_brier: float, reasons: list[str]
) -> None:
    weak = replace(
        comparison(),
        challenger=metrics(roc_auc),
        rule=replace(RULE, least_roc_auc=least),
        constant_brier=constant_brier,
    )

    assert len(weak.objections) == len(reasons)
    with pytest.raises(
        WeakFirstModelError, match=r"Version 5 is the first.*Not promoted.*churn model promote 5"
    ) as raised:
        decide(weak, champion_version=None, set_by_hand=None)
    assert all(reason in raised.value.problem for reason in reasons)
    assert decide(weak, champion_version=None, set_by_hand=5).version == 5
    assert decide(weak, champion_version=5, set_by_hand=None).version == 5


def test_a_better_version_waits_until_it_was_a_shadow_for_long_enough() -> None:
    better = comparison(0.1)

    waiting = decide(
        better, champion_version=4, set_by_hand=None, shadow=ShadowRecord(better.version, 3.0, 1.5, 900, is_active=True)
    )
    ready = decide(
        better, champion_version=4, set_by_hand=None, shadow=ShadowRecord(better.version, 3.0, 3.0, 900, is_active=True)
    )
    first = decide(
        comparison(), champion_version=None, set_by_hand=None, shadow=ShadowRecord(5, 3.0, 0.0, 0, is_active=False)
    )

    assert waiting.version == 4
    assert "It was a shadow for 1.50 of the 3 days that SHADOW_DAYS requires" in waiting.reason
    assert (ready.version, first.version) == (better.version, 5), "the first champion needs no shadow"


@pytest.mark.parametrize(
    ("compared", "champion", "reason"),
    [
        (comparison(0.001, Spain=-0.02), 5, "the gain is significant, and no slice loses more than 0.02"),
        (comparison(0.0), 4, "the gain is not significant: at 95% confidence it may be +0.0000"),
        (comparison(-0.01), 4, "the gain is not significant: at 95% confidence it may be -0.0100"),
        (comparison(0.001, Spain=-0.021, France=0.1), 4, "Spain loses 0.0210 of ROC AUC, more than the 0.02 allowed"),
    ],
)
def test_a_version_replaces_the_champion_only_if_its_gain_is_significant_and_no_slice_loses_much(
    compared: Comparison, champion: int, reason: str
) -> None:
    decision = decide(compared, champion_version=4, set_by_hand=None)

    assert decision.version == champion
    assert reason in decision.reason


CALLS = CallCosts(call=5, customer=400, success_rate=0.25)


@pytest.mark.parametrize(
    ("low", "value", "slices", "wins", "reason"),
    [
        (
            0.0,
            DecisionValue(12.5, 9.0),
            {},
            True,
            "worth 12.5000 per customer, those of the champion 9.0000. Promoted: its decisions",
        ),
        (-0.001, DecisionValue(12.5, 9.0), {}, True, "its ranking is not significantly worse"),
        (0.001, DecisionValue(9.0, 9.0), {}, True, "the gain is significant"),
        (0.0, DecisionValue(9.0, 9.0), {}, False, "its decisions are worth no more"),
        (-0.01, DecisionValue(12.5, 9.0), {}, False, "the loss is significant: at 95% confidence it is 0.0060 or more"),
        (0.0, DecisionValue(12.5, 9.0), {"Spain": -0.03}, False, "Spain loses 0.0300"),
        (0.0, None, {}, False, "the gain is not significant"),
    ],
)
def test_after_a_change_of_costs_more_valuable_decisions_win_with_an_equal_ranking(
    low: float, value: DecisionValue | None, slices: dict[str, float], wins: bool, reason: str
) -> None:
    compared = replace(comparison(low, **slices), decision_value=value, rule=replace(RULE, costs=CALLS))

    assert compared.challenger_wins == wins
    assert reason in compared.reason


@pytest.mark.parametrize(("before", "today"), [(None, CALLS), (CALLS, None), (replace(CALLS, call=60.0), CALLS)])
def test_the_same_model_with_a_threshold_for_todays_costs_replaces_one_for_other_costs(
    before: CallCosts | None, today: CallCosts | None, tmp_path: Path
) -> None:
    rows = cleaned(2_000)
    churned, unseen = rows[BANK.target].to_numpy(), small_bundle().score(inputs(rows))
    sides = []
    for version, costs in enumerate((before, today, today), 1):
        uri = str(tmp_path / str(version))
        threshold = choose_threshold(churned, unseen, costs)
        save_bundle(replace(small_bundle(), threshold=threshold, costs=costs), uri)
        OutOfFold.of(rows, unseen, BANK).save(uri)
        sides.append(TrainedModel(version, f"run {version}", uri))
    rule = replace(RULE, costs=today)

    promoted, again, back = (
        compare(rows, challenger, champion, rule)
        for challenger, champion in ((sides[1], sides[0]), (sides[2], sides[1]), (sides[0], sides[1]))
    )

    assert promoted.decision_value is not None
    assert promoted.decision_value.challenger > promoted.decision_value.champion
    assert promoted.challenger_wins
    assert (again.decision_value, again.challenger_wins) == (None, False), "the costs are those of the champion"
    assert not back.challenger_wins, "its threshold is for other costs than today's"


def test_the_value_of_calls_is_profit_per_customer_or_f1() -> None:
    churned, called = np.array([1, 0, 1, 0]), np.array([True, True, False, False])

    assert value_of_calls(churned, called, CALLS) == (0.25 * 400 - 2 * 5) / 4
    assert value_of_calls(churned, called, None) == 2 * 1 / (2 + 2)
    assert value_of_calls(churned[:0], called[:0], CALLS) == value_of_calls(churned[:0], called[:0], None) == 0


def test_a_champion_chosen_by_hand_is_adopted_whatever_the_new_version_gains() -> None:
    decision = decide(comparison(0.1), champion_version=4, set_by_hand=2)

    assert (decision.version, decision.adopted) == (2, True)
    assert "moved by hand to version 2" in decision.reason


def test_a_comparison_with_a_former_champion_is_an_error() -> None:
    with pytest.raises(StaleComparisonError, match="compared with champion 4, but the champion is now 3"):
        decide(comparison(0.1), champion_version=3, set_by_hand=None)


def test_deciding_twice_keeps_the_champion() -> None:
    assert decide(comparison(0.1), champion_version=5, set_by_hand=None).version == 5


CUSTOMERS = cleaned(2_000)
CHURNED = CUSTOMERS[BANK.target].to_numpy()
GENERATOR = np.random.default_rng(3)
# Two models: the outcome plus noise, and the same with less noise.
INFORMED = (CHURNED + GENERATOR.normal(0, 1.0, len(CHURNED))).astype(np.float32)
BETTER = (CHURNED + 0.8 * (INFORMED - CHURNED)).astype(np.float32)


def gain_of(challenger: NDArray[np.float32]) -> Gain:
    """Return the gain over the informed model."""
    return measure_gain(CUSTOMERS, CHURNED, BANK, challenger=challenger, champion=INFORMED, rule=RULE)


def test_a_better_model_gains_significantly_and_an_equal_or_shuffled_one_does_not() -> None:
    better, equal, shuffled = gain_of(BETTER), gain_of(INFORMED), gain_of(GENERATOR.permutation(INFORMED))

    assert 0 < better.low < better.auc < better.high
    assert (equal.auc, equal.low, equal.high) == (0, 0, 0)
    assert shuffled.high < -0.1
    assert better == gain_of(BETTER), "the same every time"


def test_a_model_that_fails_on_one_slice_loses_there() -> None:
    germany = (CUSTOMERS["Geography"] == "Germany").to_numpy()
    worse = np.where(germany, -BETTER, BETTER).astype(np.float32)

    slices = gain_of(worse).slices

    assert slices["Geography Germany"] < -0.2
    assert slices["Geography France"] > 0
    assert min(slices, key=lambda name: slices[name]) == "Geography Germany"


def test_the_slices_of_a_column_are_a_partition_of_the_customers() -> None:
    for column in ("Geography", "Gender", "Age", "NumOfProducts"):
        members = [rows for name, rows in slices(CUSTOMERS, BANK) if name.startswith(column)]

        assert (np.sum(members, axis=0) == 1).all()
    assert all(rows.sum() >= 2 * MIN_ROWS_OF_EACH_OUTCOME for _, rows in slices_large_enough(CUSTOMERS, CHURNED, BANK))


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=40).filter(
        lambda rows: len({churned for churned, _ in rows}) == 2
    )
)
def test_our_roc_auc_equals_scikit_learns(rows: list[tuple[int, int]]) -> None:
    churned, probabilities = np.array([row[0] for row in rows]), np.array([row[1] for row in rows]) / 5

    assert auc(churned, probabilities) == pytest.approx(roc_auc_score(churned, probabilities))


def test_training_rows_have_recorded_probabilities_and_new_rows_are_scored(tmp_path: Path) -> None:
    bundle, learned, new = small_bundle(), cleaned(), cleaned(50, seed=11)
    recorded = np.linspace(0, 1, len(learned), dtype=np.float32)
    OutOfFold.of(learned, recorded, BANK).save(str(tmp_path))

    found = unseen_probabilities(bundle, OutOfFold.load(str(tmp_path)), pd.concat([new, learned], ignore_index=True))

    np.testing.assert_array_equal(found[: len(new)], bundle.score(inputs(new)))
    np.testing.assert_array_equal(found[len(new) :], recorded)


def test_a_bundle_without_its_record_cannot_be_compared_and_the_error_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(BundleIncompleteError, match=r"has no out_of_fold\.parquet.*churn model promote"):
        OutOfFold.load(str(tmp_path))


def test_models_and_comparisons_survive_a_round_trip_through_json() -> None:
    model = TrainedModel(version=5, run_id="abc", uri="/models/abc")

    assert TrainedModel.from_json(model.to_json()) == model
    with_value = replace(
        comparison(0.1), decision_value=DecisionValue(2.0, 1.0), rule=replace(RULE, costs=CALLS), run_id="a"
    )
    for compared in (comparison(0.1, Spain=0.1), comparison(), with_value):
        assert Comparison.from_json(compared.to_json()) == compared


def test_a_first_version_is_compared_with_the_churn_rate_for_every_customer(tmp_path: Path) -> None:
    rows = cleaned(2_000)
    model = saved(small_bundle(), rows, str(tmp_path))

    compared = compare(rows, model, None, RULE)

    rate = rows[BANK.target].mean()
    assert compared.constant_brier == pytest.approx(rate * (1 - rate))
    assert compared.challenger_wins


def test_a_champion_that_cannot_score_the_rows_is_refused_by_name_with_the_way_out(tmp_path: Path) -> None:
    rows, subscribers = cleaned(2_000), clean(any_customers(SUBSCRIBERS, 400, seed=5), SUBSCRIBERS)
    challenger = saved(small_bundle(), rows, str(tmp_path / "bank"))
    champion = replace(saved(bundle_of(subscribers, SUBSCRIBERS), subscribers, str(tmp_path / "other")), version=4)

    with pytest.raises(IncomparableModelError) as raised:
        compare(rows, challenger, champion, RULE)

    assert "Champion 4 was trained with another customer schema" in raised.value.problem
    assert "'PaperlessBilling' is missing" in raised.value.problem
    assert "'churn model promote 1'" in raised.value.remedy


def saved(bundle: ModelBundle, rows: pd.DataFrame, uri: str) -> TrainedModel:
    """Save a bundle with the record of its training rows, as version 1."""
    save_bundle(bundle, uri)
    OutOfFold.of(rows, bundle.score(inputs(rows, bundle.schema)), bundle.schema).save(uri)
    return TrainedModel(1, "run 1", uri)
