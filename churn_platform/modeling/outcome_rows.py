"""Customers whose outcome is known join the customers of the file in training. Pure.

A model that learns from customers who were called learns the effect of calls as well: it finds those whom calls keep to
be at low risk, and they would not be called again. So nobody who was called is learned from. The customers of the
control group, of whom nobody is called, stand for them, each with the weight 1 / CONTROL_SHARE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.splitting import SPLIT, TEST, TRAIN
from churn_platform.schema.typed_columns import missing_column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from churn_platform.schema.columns import Column
    from churn_platform.schema.customer_schema import CustomerSchema

WEIGHT: Final = "training_weight"
"""Column of the weight of a row, in frames of both splits. It has no feature."""


def outcome_weights(is_control: NDArray[np.bool_], control_share: float) -> NDArray[np.float64]:
    """Return how many customers each of these stands for: 1, or 1 / control_share in the control group.

    Args:
        is_control: shape (n,), whether the customer would have been called, but for the control group.
        control_share: share of the control group, 0..1.

    Raises:
        TrainingDataError: the share is 0, so nobody stands for the customers who were called.
    """
    if control_share <= 0:
        raise TrainingDataError(
            "CONTROL_SHARE is 0, so nobody stands for the customers who were called.",
            remedy="Set CONTROL_SHARE above 0, or TRAIN_ON_OUTCOMES to false.",
        )
    return np.where(is_control, 1.0 / control_share, 1.0)


def with_outcomes(split: pd.DataFrame, labelled: pd.DataFrame, schema: CustomerSchema) -> pd.DataFrame:
    """Return the split customers with the labelled ones in the training split, and the weight of each row.

    A labelled customer who is in the test split is left out, so that the test split stays unseen. One who is in the
    training split of the file is there once: with the later features and outcome.

    Args:
        split: the customers of the file, with the schema's columns and SPLIT.
        labelled: other customers, each once, with the id, the inputs and the target of the schema, and WEIGHT.
        schema: of the customers.

    Returns:
        The rows of the file in their order, then the labelled ones, with their `attrs`.
    """
    import pandas as pd

    in_test = set(split.loc[split[SPLIT] == TEST, schema.id])
    added = labelled.loc[~labelled[schema.id].isin(in_test)]
    replaced = (split[SPLIT] == TRAIN) & split[schema.id].isin(set(added[schema.id]))
    kept = split.loc[~replaced]
    columns: dict[str, NDArray[np.generic] | pd.Categorical] = {
        column.name: np.concatenate([kept[column.name].to_numpy(), _values(added, column)]) for column in schema.columns
    }
    splits = np.concatenate([kept[SPLIT].to_numpy(), np.full(len(added), TRAIN, object)])
    columns[SPLIT] = pd.Categorical(splits, categories=[TEST, TRAIN])
    columns[WEIGHT] = np.concatenate([np.ones(len(kept)), added[WEIGHT].to_numpy(np.float64)])
    joined = pd.DataFrame(columns, copy=False)
    joined.attrs = dict(split.attrs)
    return joined


def _values(rows: pd.DataFrame, column: Column) -> NDArray[np.generic]:
    """Return the values of a column. Columns that nothing learns from, such as names, are not stored with events."""
    if column.name in rows:
        return rows[column.name].to_numpy()
    return np.zeros(len(rows), np.int64) if column.dtype == "int64" else missing_column(column, len(rows))
