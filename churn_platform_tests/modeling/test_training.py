"""Training is reproducible and uses only the training split."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from churn_platform.features.cleaning import clean
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.splitting import (
    MIN_CUSTOMERS_OF_EACH_OUTCOME,
    TEST,
    TRAIN,
    rows_of,
    stratified_training_rows,
    with_split,
)
from churn_platform.modeling.training import Hyperparameters, data_hash, fit, out_of_fold_probabilities, train
from churn_platform.scoring.booster import booster_to_bytes, import_xgboost
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, cleaned, fitted, inputs
from churn_platform_tests.scoring.bundles import FEW_TREES, bundle_of

CUSTOMERS = cleaned(2_000)
CHURNED = CUSTOMERS[BANK.target].to_numpy()
MATRIX = fitted(CUSTOMERS).transform(inputs(CUSTOMERS))


def test_the_same_rows_give_the_same_model_byte_for_byte() -> None:
    once, again = train(MATRIX, CHURNED, BANK, FEW_TREES), train(MATRIX, CHURNED, BANK, FEW_TREES)

    assert once.model == again.model
    assert once.threshold == again.threshold
    np.testing.assert_array_equal(once.out_of_fold, again.out_of_fold)


@pytest.mark.parametrize("threads", [1, 5])
def test_the_number_of_parallel_fits_changes_no_probability(threads: int) -> None:
    expected = out_of_fold_probabilities(MATRIX, CHURNED, BANK, FEW_TREES)

    with ThreadPoolExecutor(threads) as pool:
        found = out_of_fold_probabilities(MATRIX, CHURNED, BANK, FEW_TREES, pool=pool)

    np.testing.assert_array_equal(found, expected)


def test_a_model_of_some_rows_is_that_of_a_matrix_of_these_rows() -> None:
    rows = np.arange(0, len(MATRIX), 2)

    model = fit(MATRIX, CHURNED, BANK, FEW_TREES, among=rows)

    assert booster_to_bytes(model) == booster_to_bytes(fit(MATRIX[rows], CHURNED[rows], BANK, FEW_TREES))


def test_bins_of_one_byte_give_the_model_of_the_values() -> None:
    library = import_xgboost()
    rows = library.DMatrix(MATRIX, label=CHURNED, feature_names=list(BANK.feature_names), nthread=1)
    expected = library.train(FEW_TREES.booster_parameters(BANK), rows, num_boost_round=FEW_TREES.trees)

    assert booster_to_bytes(fit(MATRIX, CHURNED, BANK, FEW_TREES)) == booster_to_bytes(expected)


def test_out_of_fold_probabilities_find_churners() -> None:
    result = train(MATRIX, CHURNED, BANK, FEW_TREES)

    assert result.out_of_fold.shape == CHURNED.shape
    assert result.evaluation.roc_auc > 0.75
    assert 0 < result.threshold < 1


def test_shuffled_labels_cannot_be_predicted_out_of_fold() -> None:
    shuffled = np.random.default_rng(5).permutation(CHURNED)

    assert abs(train(MATRIX, shuffled, BANK, FEW_TREES).evaluation.roc_auc - 0.5) < 0.08


def test_importances_are_shares_by_name() -> None:
    importances = train(MATRIX, CHURNED, BANK, FEW_TREES).importances

    assert set(importances) == set(BANK.feature_names)
    assert sum(importances.values()) == pytest.approx(1)
    assert list(importances.values()) == sorted(importances.values(), reverse=True)


def test_the_risk_moves_only_in_the_direction_that_the_schema_allows() -> None:
    rows = clean(any_customers(SUBSCRIBERS, 400, seed=5), SUBSCRIBERS)
    bundle = replace(bundle_of(rows, SUBSCRIBERS), calibration=None)  # of a model without skill, it may be anything
    columns = {name: np.repeat(values[:1], 50) for name, values in inputs(rows, SUBSCRIBERS).items()}

    rising = bundle.score({**columns, "SupportCalls": np.arange(50) * 10})
    falling = bundle.score({**columns, "Discount": np.linspace(0, 100, 50)})
    later = np.datetime64("2010-01-01", "s") + np.arange(50) * np.timedelta64(190, "D")
    joined = bundle.score({**columns, "SignupDate": later})

    assert (np.diff(rising) >= 0).all()
    assert (np.diff(falling) <= 0).all()
    assert (np.diff(joined) >= 0).all()
    assert bundle.booster.feature_names == list(SUBSCRIBERS.feature_names)


def test_the_banks_constraints_are_those_of_its_schema() -> None:
    constraints = Hyperparameters().booster_parameters(BANK)["monotone_constraints"]

    assert constraints == "(-1,0,0,0,0,0,-1,0,-1,0,0,0,0,0)"


def test_customers_with_a_text_as_id_are_split_by_it() -> None:
    rows = clean(any_customers(SUBSCRIBERS, 400, seed=5), SUBSCRIBERS)
    twice = pd.concat([rows, rows.head(100).assign(SupportCalls=0)], ignore_index=True)

    split = with_split(twice, SUBSCRIBERS)

    train_ids, test_ids = (set(rows_of(split, name)["SubscriberId"]) for name in (TRAIN, TEST))
    assert not train_ids & test_ids
    assert train_ids | test_ids == set(rows["SubscriberId"])


def test_a_fifth_is_test_stratified_by_churn_and_reproducible() -> None:
    split = with_split(CUSTOMERS, BANK)
    train_rows, test_rows = rows_of(split, TRAIN), rows_of(split, TEST)

    assert len(test_rows) == pytest.approx(len(CUSTOMERS) / 5, abs=1)
    assert test_rows[BANK.target].mean() == pytest.approx(train_rows[BANK.target].mean(), abs=0.005)
    assert set(train_rows["CustomerId"]) | set(test_rows["CustomerId"]) == set(CUSTOMERS["CustomerId"])
    assert not set(train_rows["CustomerId"]) & set(test_rows["CustomerId"])
    assert with_split(CUSTOMERS, BANK).equals(split)


@pytest.mark.parametrize("rows", [20, 21, 22, 23, 24, 333, 5_001])
@pytest.mark.parametrize("left", [10, 0.5])  # half of the rows: then the remainders are equal, and one is drawn
def test_the_split_equals_scikit_learns(rows: int, left: float) -> None:
    churned = (np.arange(rows) < (left if left >= 1 else left * rows)).astype(np.int64)
    learned, _ = train_test_split(np.arange(rows), test_size=0.2, stratify=churned, random_state=42)

    trained = stratified_training_rows(churned)

    assert set(np.flatnonzero(trained)) == set(learned)


def test_the_rows_of_a_split_may_be_taken_out_of_the_frame() -> None:
    split = with_split(CUSTOMERS, BANK)
    expected = rows_of(split, TRAIN)

    taken = rows_of(split, TRAIN, consume=True)

    pd.testing.assert_frame_equal(taken, expected)
    assert list(split) == ["split"]


def test_no_customer_is_in_both_splits_even_with_two_rows() -> None:
    twice = pd.concat([CUSTOMERS, CUSTOMERS.head(1_000).assign(Tenure=3)], ignore_index=True)

    split = with_split(twice, BANK)

    train_ids, test_ids = (set(rows_of(split, name)["CustomerId"]) for name in (TRAIN, TEST))
    assert not train_ids & test_ids
    assert len(test_ids) == pytest.approx(len(CUSTOMERS) / 5, abs=1)
    assert split["CustomerId"].tolist() == twice["CustomerId"].tolist()


@pytest.mark.parametrize(("left", "stayed"), [(0, 30), (30, 0), (9, 400), (0, 0)])
def test_too_few_customers_of_an_outcome_are_an_error_with_both_counts(left: int, stayed: int) -> None:
    rows = CUSTOMERS[BANK.target].to_numpy()
    few = pd.concat([CUSTOMERS[rows == 1].head(left), CUSTOMERS[rows == 0].head(stayed)], ignore_index=True)

    with pytest.raises(TrainingDataError) as raised:
        with_split(few, BANK)

    counts = f"{left} customers who left (Exited 1) and {stayed} who stayed, not counting those without a Gender"
    assert counts in raised.value.problem
    assert f"needs {MIN_CUSTOMERS_OF_EACH_OUTCOME} or more of each" in raised.value.problem


def test_folds_without_an_outcome_are_an_error_with_both_counts() -> None:
    with pytest.raises(TrainingDataError, match=r"4 customers who left and 96 who stayed.*5 or more of each"):
        train(MATRIX[:100], (np.arange(100) < 4).astype(np.int64), BANK, FEW_TREES)


def test_the_data_hash_depends_only_on_values_and_column_names() -> None:
    changed = CUSTOMERS.assign(Balance=CUSTOMERS["Balance"].where(CUSTOMERS.index != 7, 0.01))

    assert data_hash(CUSTOMERS) == data_hash(CUSTOMERS.copy())
    assert data_hash(CUSTOMERS) != data_hash(changed)
    assert data_hash(CUSTOMERS) != data_hash(CUSTOMERS.rename(columns={"Balance": "balance"}))
