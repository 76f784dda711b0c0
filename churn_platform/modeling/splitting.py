"""Splitting customers into a training and a test split. Pure.

The split is by customer, not by row: all rows of one customer are in the same split.
"""

from __future__ import annotations

from collections.abc import Collection
from math import ceil
from typing import TYPE_CHECKING, Final

import numpy as np

from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.schema.pieces import all_different

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from churn_platform.schema.customer_schema import CustomerSchema

SPLIT, TRAIN, TEST = "split", "train", "test"
TEST_SHARE: Final = 0.2
RANDOM_STATE: Final = 42
# Of ten, two are test. The other eight give each of five folds one at least, and leave enough in the other four folds
# for the hyperparameter search to hold back a fifth of them for early stopping.
MIN_CUSTOMERS_OF_EACH_OUTCOME: Final = 10


def with_split(cleaned: pd.DataFrame, schema: CustomerSchema) -> pd.DataFrame:
    """Return the rows with a column `split`, "train" or "test". A fifth of the customers is test, stratified by churn.

    Args:
        cleaned: n rows with the id column and the target, which is 0 or 1. A customer with several rows counts as
            churned if any of them is 1.
        schema: names the id column and the target.

    Returns:
        The same rows, in their order, with their `attrs`.

    Raises:
        TrainingDataError: there are too few customers of either outcome to train and evaluate a model.
    """
    churned = cleaned[schema.target].to_numpy(np.int64)
    customer = None
    if not all_different(cleaned[schema.id].to_numpy()):
        import pandas as pd

        customer, ids = pd.factorize(cleaned[schema.id])  # numbered in the order of their first rows
        rows_churned, churned = churned, np.zeros(len(ids), dtype=np.int64)
        np.maximum.at(churned, customer, rows_churned)
    in_train = training_customers(churned, schema)
    return with_membership(cleaned, in_train if customer is None else in_train[customer])


def with_membership(customers: pd.DataFrame, in_train: NDArray[np.bool_]) -> pd.DataFrame:
    """Return the rows with a column `split`, with their `attrs`.

    Args:
        customers: n rows.
        in_train: shape (n,), whether the row is in the training split.
    """
    import pandas as pd

    codes, dtype = in_train.astype(np.int8), pd.CategoricalDtype([TEST, TRAIN])
    split = pd.Categorical.from_codes(codes, dtype=dtype)  # type: ignore[arg-type]  # pandas' types lack arrays
    marked = pd.DataFrame({**dict(customers.items()), SPLIT: split}, copy=False)
    marked.attrs = dict(customers.attrs)
    return marked


def training_customers(churned: NDArray[np.integer], schema: CustomerSchema) -> NDArray[np.bool_]:
    """Return which customers are in the training split.

    Args:
        churned: shape (n,), 0 or 1, one per customer, in the order of their first rows.
        schema: names the target, for the message of the error.

    Raises:
        TrainingDataError: there are too few customers of either outcome to train and evaluate a model.
    """
    left = int(np.count_nonzero(churned))
    _require_both_outcomes(len(churned) - left, left, schema)
    return stratified_training_rows(churned)


def stratified_training_rows(churned: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return which rows scikit-learn's `train_test_split` puts into the training split, stratified by churn.

    It makes the same draws. scikit-learn collects row numbers in lists of Python objects, 40 bytes for each row: 0.4 GB
    and three seconds for ten million customers, and its import takes a second.

    Args:
        churned: shape (n,), 0 or 1, at least two of each.

    Returns:
        shape (n,), true for four fifths of the rows.

    Source: `StratifiedShuffleSplit._iter_indices` of scikit-learn 1.9.
    """
    generator = np.random.RandomState(RANDOM_STATE)
    left = np.count_nonzero(churned)
    counts = np.array([len(churned) - left, left])
    tested = ceil(TEST_SHARE * len(churned))
    trained_of_each = _likeliest_counts(counts, len(churned) - tested, generator)
    _likeliest_counts(counts - trained_of_each, tested, generator)  # it may draw, and the next draws depend on that
    trained = np.zeros(len(churned), dtype=np.bool_)
    for outcome, count in enumerate(trained_of_each.tolist()):
        rows = np.flatnonzero((churned != 0) == bool(outcome))
        generator.shuffle(rows)
        trained[rows[:count]] = True
    return trained


def _likeliest_counts(counts: NDArray[np.int64], drawn: int, generator: np.random.RandomState) -> NDArray[np.int64]:
    """Return how many of each outcome are most likely among the drawn rows. Remainders that are equal are drawn for.

    Source: `sklearn.utils.extmath._approximate_mode` of scikit-learn 1.9.
    """
    exact = counts / counts.sum() * drawn
    likeliest = np.floor(exact)
    remainders = exact - likeliest
    lacking = int(drawn - likeliest.sum())
    for remainder in np.unique(remainders)[::-1]:
        if lacking == 0:
            break
        outcomes = np.flatnonzero(remainders == remainder)
        raised = generator.choice(outcomes, size=min(len(outcomes), lacking), replace=False)
        likeliest[raised] += 1
        lacking -= len(raised)
    whole: NDArray[np.int64] = likeliest.astype(np.int64)
    return whole


def _require_both_outcomes(stayed: int, left: int, schema: CustomerSchema) -> None:
    if min(stayed, left) < MIN_CUSTOMERS_OF_EACH_OUTCOME:
        without = f", not counting those without a {' or '.join(schema.dropped)}" if schema.dropped else ""
        raise TrainingDataError(
            f"The customers file has {left:,} customers who left ({schema.target} {schema.left}) and {stayed:,} who "
            f"stayed{without}. Training needs {MIN_CUSTOMERS_OF_EACH_OUTCOME} or more of each: a fifth of them is the "
            f"test split, and the others are divided into five folds.",
            remedy=f"Add customers of the rare outcome, or check that {schema.target} is {schema.left} if they left.",
        )


def rows_of(
    frame: pd.DataFrame, split: str, columns: Collection[str] | None = None, *, consume: bool = False
) -> pd.DataFrame:
    """Return the rows of one split with a new index 0..n-1, without the column `split`.

    Args:
        frame: what `with_split` returned, or features made of it.
        split: TRAIN or TEST.
        columns: names of the columns to return; None returns all.
        consume: whether to remove each column from `frame` as soon as its rows are taken, so that both frames together
            take hardly more memory than one.
    """
    import pandas as pd

    wanted = [str(name) for name in frame if name != SPLIT and (columns is None or name in columns)]
    positions = np.flatnonzero(frame[SPLIT] == split)
    # Column by column: pandas would copy the frame for each of the three steps.
    taken = {name: (frame.pop(name) if consume else frame[name]).array.take(positions) for name in wanted}
    rows = pd.DataFrame(taken, copy=False)
    rows.attrs = dict(frame.attrs)
    return rows
