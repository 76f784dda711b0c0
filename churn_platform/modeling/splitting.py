"""Which customers a model may learn from. Pure."""

from __future__ import annotations

from collections.abc import Collection
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
    import pandas as pd
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]  # 1 s to import: only who splits pays

    train, _ = train_test_split(
        np.arange(len(cleaned)), test_size=TEST_SHARE, stratify=cleaned[target], random_state=RANDOM_STATE
    )
    split = np.full(len(cleaned), TEST, dtype=object)
    split[train] = TRAIN
    return pd.DataFrame({**dict(cleaned.items()), SPLIT: split}, copy=False)


def rows_of(frame: pd.DataFrame, split: str, columns: Collection[str] | None = None) -> pd.DataFrame:
    """The rows of one split, index 0..n-1, without the column that says so; of all columns, or of some."""
    wanted = [name for name in frame if name != SPLIT and (columns is None or name in columns)]
    import pandas as pd

    taken = np.flatnonzero(frame[SPLIT].to_numpy() == split)
    # Column by column: pandas would copy the frame for each of the three steps.
    return pd.DataFrame({name: frame[name].to_numpy()[taken] for name in wanted}, copy=False)
