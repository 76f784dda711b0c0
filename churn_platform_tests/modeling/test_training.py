"""Training is the same every time, and learns from what it may see only."""

import numpy as np
import pytest

from churn_platform.features.columns import FEATURES, TARGET, columns_of
from churn_platform.modeling.splitting import TEST, TRAIN, rows_of, with_split
from churn_platform.modeling.training import data_hash, train
from churn_platform_tests.features.customers import cleaned, fitted
from churn_platform_tests.modeling.bundles import FEW_TREES

CUSTOMERS = cleaned(2_000)
CHURNED = CUSTOMERS[TARGET].to_numpy()
MATRIX = fitted(CUSTOMERS).transform(columns_of(CUSTOMERS))


def test_the_same_rows_give_the_same_model_byte_for_byte() -> None:
    once, again = train(MATRIX, CHURNED, FEW_TREES), train(MATRIX, CHURNED, FEW_TREES)

    assert once.model == again.model
    assert once.threshold == again.threshold
    np.testing.assert_array_equal(once.out_of_fold, again.out_of_fold)


def test_out_of_fold_probabilities_find_churners_among_customers_not_learnt_from() -> None:
    result = train(MATRIX, CHURNED, FEW_TREES)

    assert result.out_of_fold.shape == CHURNED.shape
    assert result.evaluation.roc_auc > 0.75
    assert 0 < result.threshold < 1


def test_labels_by_chance_cannot_be_learnt_out_of_fold() -> None:
    shuffled = np.random.default_rng(5).permutation(CHURNED)

    assert abs(train(MATRIX, shuffled, FEW_TREES).evaluation.roc_auc - 0.5) < 0.08


def test_importances_are_shares_by_name() -> None:
    importances = train(MATRIX, CHURNED, FEW_TREES).importances

    assert set(importances) == set(FEATURES)
    assert sum(importances.values()) == pytest.approx(1)
    assert list(importances.values()) == sorted(importances.values(), reverse=True)


def test_a_fifth_is_test_with_the_same_share_of_churn_and_always_the_same_rows() -> None:
    split = with_split(CUSTOMERS, TARGET)
    train_rows, test_rows = rows_of(split, TRAIN), rows_of(split, TEST)

    assert len(test_rows) == pytest.approx(len(CUSTOMERS) / 5, abs=1)
    assert test_rows[TARGET].mean() == pytest.approx(train_rows[TARGET].mean(), abs=0.005)
    assert set(train_rows["CustomerId"]) | set(test_rows["CustomerId"]) == set(CUSTOMERS["CustomerId"])
    assert not set(train_rows["CustomerId"]) & set(test_rows["CustomerId"])
    assert with_split(CUSTOMERS, TARGET).equals(split)


def test_the_data_hash_changes_with_any_value_and_with_nothing_else() -> None:
    changed = CUSTOMERS.assign(Balance=CUSTOMERS["Balance"].where(CUSTOMERS.index != 7, 0.01))

    assert data_hash(CUSTOMERS) == data_hash(CUSTOMERS.copy())
    assert data_hash(CUSTOMERS) != data_hash(changed)
    assert data_hash(CUSTOMERS) != data_hash(CUSTOMERS.rename(columns={"Balance": "balance"}))
