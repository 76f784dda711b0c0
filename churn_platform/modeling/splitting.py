"""Which customers a model may learn from. Pure.

The split is by customer, not by row: all rows of one CustomerId are in the same split.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.schema.columns import CUSTOMER_ID

if TYPE_CHECKING:
    import pandas as pd

SPLIT, TRAIN, TEST = "split", "train", "test"
TEST_SHARE = 0.2
RANDOM_STATE = 42
# A fifth of ten is test: two. The eight others make five folds with one at least in each, and in the four folds that a
# model of the search learns from are enough to hold a fifth back once more.
LEAST_OF_EACH_OUTCOME = 10


def with_split(cleaned: pd.DataFrame, target: str) -> pd.DataFrame:
    """The rows with a column `split`, "train" or "test": a fifth of the customers is test, with equal shares of churn.

    Args:
        cleaned: n rows with CustomerId.
        target: the column of the outcome, 0 or 1. A customer with several rows counts as churned if one of them is.

    Returns:
        The same rows, in their order, with their `attrs`.

    Raises:
        TrainingDataError: too few customers of either outcome to learn and to be judged.
    """
    import pandas as pd
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]  # 1 s to import: only who splits pays

    customer, ids = pd.factorize(cleaned[CUSTOMER_ID])  # in the order in which they first occur
    churned = np.zeros(len(ids), dtype=np.int64)
    np.maximum.at(churned, customer, cleaned[target].to_numpy(np.int64))
    _require_both_outcomes(len(churned) - int(churned.sum()), int(churned.sum()))
    train, _ = train_test_split(np.arange(len(ids)), test_size=TEST_SHARE, stratify=churned, random_state=RANDOM_STATE)
    learns = np.zeros(len(ids), dtype=np.bool_)
    learns[train] = True
    split = np.where(learns[customer], TRAIN, TEST).astype(object)
    marked = pd.DataFrame({**dict(cleaned.items()), SPLIT: split}, copy=False)
    marked.attrs = dict(cleaned.attrs)
    return marked


def _require_both_outcomes(stayed: int, left: int) -> None:
    if min(stayed, left) < LEAST_OF_EACH_OUTCOME:
        raise TrainingDataError(
            f"The customers file has {left:,} customers who left (Exited 1) and {stayed:,} who stayed (Exited 0) and "
            f"whose Gender is known. A training needs {LEAST_OF_EACH_OUTCOME} or more of each: a fifth of them is the "
            f"test split, and the others make five folds.",
            remedy="Add customers of the outcome that is rare, or check that Exited is 1 for those who left.",
        )


def rows_of(frame: pd.DataFrame, split: str, columns: Collection[str] | None = None) -> pd.DataFrame:
    """The rows of one split, index 0..n-1, without the column that says so; of all columns, or of some."""
    wanted = [name for name in frame if name != SPLIT and (columns is None or name in columns)]
    import pandas as pd

    taken = np.flatnonzero(frame[SPLIT].to_numpy() == split)
    # Column by column: pandas would copy the frame for each of the three steps.
    rows = pd.DataFrame({name: frame[name].to_numpy()[taken] for name in wanted}, copy=False)
    rows.attrs = dict(frame.attrs)
    return rows
