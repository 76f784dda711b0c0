"""Which customers a model may learn from. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SPLIT, TRAIN, TEST = "split", "train", "test"
TEST_SHARE = 0.2
RANDOM_STATE = 42


def with_split(cleaned: pd.DataFrame, target: str) -> pd.DataFrame:
    """The customers with a column `split`, "train" or "test": a fifth is test, each split with the same share of churn.

    Raises:
        ValueError: too few customers to have both outcomes in both splits (scikit-learn's own message).
    """
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]  # 1 s to import: only who splits pays

    train, _ = train_test_split(
        np.arange(len(cleaned)), test_size=TEST_SHARE, stratify=cleaned[target], random_state=RANDOM_STATE
    )
    split = np.full(len(cleaned), TEST, dtype=object)
    split[train] = TRAIN
    return cleaned.assign(**{SPLIT: split})


def rows_of(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of one split, without the column that says so, index 0..n-1."""
    return frame.loc[frame[SPLIT] == split].drop(columns=SPLIT).reset_index(drop=True)
