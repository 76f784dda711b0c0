"""Customers whose outcome is known join the training split, without those who were called."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xgboost

from churn_platform.modeling.calibration_choice import choose_calibration
from churn_platform.modeling.evaluation import evaluate
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.outcome_rows import WEIGHT, outcome_weights, with_outcomes
from churn_platform.modeling.splitting import SPLIT, TEST, TRAIN, rows_of, with_split
from churn_platform.modeling.threshold import choose_threshold
from churn_platform.modeling.training import Hyperparameters, train
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.booster import booster_from_bytes, predict
from churn_platform.scoring.costs import CallCosts
from churn_platform_tests.features.customers import BANK, cleaned, fitted, inputs
from churn_platform_tests.scoring.bundles import FEW_TREES

ROWS = cleaned(800)


def labelled(rows: pd.DataFrame, *, weight: float = 1.0) -> pd.DataFrame:
    """These customers as labelled_customers has them: without columns that no event carries."""
    return rows[[*BANK.event_fields, BANK.target]].assign(**{WEIGHT: weight}).reset_index(drop=True)


def test_labelled_customers_are_added_to_the_training_split_with_their_weights() -> None:
    split = with_split(ROWS.head(500), BANK)
    split.attrs = {"sha256": "abc"}
    others = labelled(ROWS.iloc[500:], weight=10.0)

    found = with_outcomes(split, others, BANK)

    assert found.attrs == split.attrs
    assert list(found) == [*split, WEIGHT]
    pd.testing.assert_frame_equal(found.head(500)[list(split)], split)
    assert found[SPLIT].tolist()[500:] == [TRAIN] * len(others)
    assert found[WEIGHT].tolist() == [1.0] * 500 + [10.0] * len(others)
    for name in (*BANK.event_fields, BANK.target):
        assert found[name].dtype == split[name].dtype
        pd.testing.assert_series_equal(found[name].iloc[500:], others[name], check_index=False)


def test_customers_of_the_test_split_are_left_out_and_those_of_the_training_split_are_replaced() -> None:
    split = with_split(ROWS, BANK)
    later = labelled(ROWS.assign(Age=99.0))

    found = with_outcomes(split, later, BANK)

    pd.testing.assert_frame_equal(rows_of(found, TEST, [str(name) for name in split]), rows_of(split, TEST))
    trained = rows_of(found, TRAIN)
    assert (trained["Age"] == 99).all()
    assert sorted(trained["CustomerId"]) == sorted(rows_of(split, TRAIN)["CustomerId"])


def test_without_labelled_customers_the_split_is_what_it_was() -> None:
    split = with_split(ROWS, BANK)

    found = with_outcomes(split, labelled(ROWS.head(0)), BANK)

    pd.testing.assert_frame_equal(found[list(split)], split)
    assert (found[WEIGHT] == 1).all()


def test_controls_stand_for_the_customers_who_were_called() -> None:
    assert outcome_weights(np.array([True, False]), 0.1).tolist() == [10.0, 1.0]
    with pytest.raises(TrainingDataError, match="CONTROL_SHARE is 0"):
        outcome_weights(np.array([True]), 0.0)


def test_without_weights_the_model_has_the_bytes_of_a_training_that_knows_none() -> None:
    features = fitted(ROWS).transform(inputs(ROWS))
    churned = ROWS[BANK.target].to_numpy()

    trained = train(features, churned, BANK, FEW_TREES)

    rows = xgboost.QuantileDMatrix(features, label=churned, feature_names=list(BANK.feature_names), nthread=1)
    plain = xgboost.train(FEW_TREES.booster_parameters(BANK), rows, num_boost_round=FEW_TREES.trees)
    assert trained.model == bytes(plain.save_raw(raw_format="ubj"))


def test_a_row_of_weight_two_counts_like_two_rows() -> None:
    generator = np.random.default_rng(3)
    probabilities = generator.random(400).astype(np.float32)
    churned = (generator.random(400) < probabilities).astype(np.int64)
    weights = generator.integers(1, 4, 400).astype(np.float64)
    times = weights.astype(np.int64)
    churned_often, often = np.repeat(churned, times), np.repeat(probabilities, times)

    weighted = evaluate(churned, probabilities, threshold=0.5, weights=weights)
    repeated = evaluate(churned_often, often, threshold=0.5)

    # Bins of equal count hold other rows, so the calibration error may differ.
    assert replace(weighted, ece=0).as_dict() == pytest.approx(replace(repeated, ece=0).as_dict())
    for costs in (None, CallCosts(call=1, customer=10, success_rate=0.5)):
        assert choose_threshold(churned, probabilities, costs, weights=weights) == choose_threshold(
            churned_often, often, costs
        )
    ones = np.ones(400)
    assert choose_calibration(churned, probabilities, seed=1, weights=ones).name == (
        choose_calibration(churned, probabilities, seed=1).name
    )


SIMPLE = CustomerSchema(
    name="simple",
    id="id",
    target="left",
    columns=(
        Column(name="id", kind="whole"),
        *(Column(name=name, kind="number", minimum=-9, maximum=9, transforms=("value",)) for name in "abc"),
        Column(name="left", kind="flag"),
    ),
)
CONTROL_SHARE = 0.2
CALLED_FROM = 0.5
SUCCESS_RATE = 0.7
TREES = Hyperparameters(trees=120, learning_rate=0.08)


def uncalled(seed: int, customers: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of customers, and their probabilities of leaving if nobody calls them."""
    features = np.random.default_rng(seed).normal(0, 1, (customers, 3)).astype(np.float32)
    return features, 1 / (1 + np.exp(-(1.3 * features[:, 0] - 0.8 * features[:, 1] + 0.2)))


def calibration_error(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean distance between predicted and true rates, by tenths of the customers."""
    tenths = np.array_split(np.argsort(predicted), 10)
    return float(np.mean([abs(predicted[rows].mean() - truth[rows].mean()) for rows in tenths]))


def test_a_model_of_the_outcomes_is_calibrated_for_customers_whom_nobody_calls() -> None:
    features, risk = uncalled(1, 30_000)
    generator = np.random.default_rng(2)
    listed = risk >= CALLED_FROM
    control = generator.random(len(risk)) < CONTROL_SHARE
    called = listed & ~control
    left = (generator.random(len(risk)) < risk * np.where(called, 1 - SUCCESS_RATE, 1)).astype(np.int64)
    unseen, truth = uncalled(3, 30_000)

    def error(rows: np.ndarray, weights: np.ndarray | None) -> float:
        trained = train(features[rows], left[rows], SIMPLE, TREES, weights=weights)
        found = predict(booster_from_bytes(trained.model), unseen, threads=1)
        chosen = trained.calibration.calibration
        return calibration_error(found if chosen is None else chosen.apply(found), truth)

    everybody = error(np.ones(len(risk), np.bool_), None)
    unweighted = error(~called, None)
    as_documented = error(~called, outcome_weights((listed & control)[~called], CONTROL_SHARE))

    assert as_documented < 0.02
    assert everybody > 0.1  # who is kept by calls seems to be at low risk
    assert as_documented < unweighted + 0.005
