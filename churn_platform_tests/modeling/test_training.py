"""Training is reproducible and uses only the training split."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

from churn_platform.features.columns import FEATURES, TARGET, columns_of
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.splitting import MIN_CUSTOMERS_OF_EACH_OUTCOME, TEST, TRAIN, rows_of, with_split
from churn_platform.modeling.training import data_hash, train
from churn_platform_tests.features.customers import cleaned, fitted
from churn_platform_tests.scoring.bundles import FEW_TREES

CUSTOMERS = cleaned(2_000)
CHURNED = CUSTOMERS[TARGET].to_numpy()
MATRIX = fitted(CUSTOMERS).transform(columns_of(CUSTOMERS))


def test_the_same_rows_give_the_same_model_byte_for_byte() -> None:
    once, again = train(MATRIX, CHURNED, FEW_TREES), train(MATRIX, CHURNED, FEW_TREES)

    assert once.model == again.model
    assert once.threshold == again.threshold
    np.testing.assert_array_equal(once.out_of_fold, again.out_of_fold)


def test_out_of_fold_probabilities_find_churners() -> None:
    result = train(MATRIX, CHURNED, FEW_TREES)

    assert result.out_of_fold.shape == CHURNED.shape
    assert result.evaluation.roc_auc > 0.75
    assert 0 < result.threshold < 1


def test_shuffled_labels_cannot_be_predicted_out_of_fold() -> None:
    shuffled = np.random.default_rng(5).permutation(CHURNED)

    assert abs(train(MATRIX, shuffled, FEW_TREES).evaluation.roc_auc - 0.5) < 0.08


def test_importances_are_shares_by_name() -> None:
    importances = train(MATRIX, CHURNED, FEW_TREES).importances

    assert set(importances) == set(FEATURES)
    assert sum(importances.values()) == pytest.approx(1)
    assert list(importances.values()) == sorted(importances.values(), reverse=True)


def test_a_fifth_is_test_stratified_by_churn_and_reproducible() -> None:
    split = with_split(CUSTOMERS, TARGET)
    train_rows, test_rows = rows_of(split, TRAIN), rows_of(split, TEST)

    assert len(test_rows) == pytest.approx(len(CUSTOMERS) / 5, abs=1)
    assert test_rows[TARGET].mean() == pytest.approx(train_rows[TARGET].mean(), abs=0.005)
    assert set(train_rows["CustomerId"]) | set(test_rows["CustomerId"]) == set(CUSTOMERS["CustomerId"])
    assert not set(train_rows["CustomerId"]) & set(test_rows["CustomerId"])
    assert with_split(CUSTOMERS, TARGET).equals(split)


def test_the_split_of_customers_with_one_row_each_equals_scikit_learns() -> None:
    learned, _ = train_test_split(np.arange(len(CUSTOMERS)), test_size=0.2, stratify=CHURNED, random_state=42)

    split = with_split(CUSTOMERS, TARGET)

    assert set(np.flatnonzero(split["split"] == TRAIN)) == set(learned)


def test_no_customer_is_in_both_splits_even_with_two_rows() -> None:
    twice = pd.concat([CUSTOMERS, CUSTOMERS.head(1_000).assign(Tenure=3)], ignore_index=True)

    split = with_split(twice, TARGET)

    train_ids, test_ids = (set(rows_of(split, name)["CustomerId"]) for name in (TRAIN, TEST))
    assert not train_ids & test_ids
    assert len(test_ids) == pytest.approx(len(CUSTOMERS) / 5, abs=1)
    assert split["CustomerId"].tolist() == twice["CustomerId"].tolist()


@pytest.mark.parametrize(("left", "stayed"), [(0, 30), (30, 0), (9, 400), (0, 0)])
def test_too_few_customers_of_an_outcome_are_an_error_with_both_counts(left: int, stayed: int) -> None:
    rows = CUSTOMERS[TARGET].to_numpy()
    few = pd.concat([CUSTOMERS[rows == 1].head(left), CUSTOMERS[rows == 0].head(stayed)], ignore_index=True)

    with pytest.raises(TrainingDataError) as raised:
        with_split(few, TARGET)

    assert f"{left} customers who left (Exited 1) and {stayed} who stayed (Exited 0)" in raised.value.problem
    assert f"needs {MIN_CUSTOMERS_OF_EACH_OUTCOME} or more of each" in raised.value.problem


def test_folds_without_an_outcome_are_an_error_with_both_counts() -> None:
    with pytest.raises(TrainingDataError, match=r"4 rows with Exited 1 and 96 with Exited 0.*5 or more of each"):
        train(MATRIX[:100], (np.arange(100) < 4).astype(np.int64), FEW_TREES)


def test_the_data_hash_depends_only_on_values_and_column_names() -> None:
    changed = CUSTOMERS.assign(Balance=CUSTOMERS["Balance"].where(CUSTOMERS.index != 7, 0.01))

    assert data_hash(CUSTOMERS) == data_hash(CUSTOMERS.copy())
    assert data_hash(CUSTOMERS) != data_hash(changed)
    assert data_hash(CUSTOMERS) != data_hash(CUSTOMERS.rename(columns={"Balance": "balance"}))
