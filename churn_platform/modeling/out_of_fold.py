"""Out-of-fold probabilities of a model's training rows, stored beside its bundle.

A later model is compared with it on the same rows. Scoring them with the bundle itself would be unfair, because it was
trained on them. The record holds no customer data, only a hash of each customer's features and P(churn).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import columns_of
from churn_platform.files.artifacts import join, read_bytes, write_bytes
from churn_platform.files.exceptions import ArtifactNotFoundError
from churn_platform.files.parquet import from_parquet, to_parquet
from churn_platform.scoring.exceptions import BundleIncompleteError

if TYPE_CHECKING:
    from churn_platform.files.stored_frame import Frame
    from churn_platform.schema.customer_schema import CustomerSchema
    from churn_platform.scoring.bundle import ModelBundle

RECORD: Final = "out_of_fold.parquet"


@dataclass(frozen=True)
class OutOfFold:
    """P(churn) of training rows, out of fold.

    Attributes:
        keys: shape (n,), hashes of the raw columns that features are made of.
        probabilities: shape (n,), 0..1.
    """

    keys: NDArray[np.uint64]
    probabilities: NDArray[np.float32]

    @classmethod
    def of(cls, rows: Frame, probabilities: NDArray[np.float32], schema: CustomerSchema) -> OutOfFold:
        """Return the record of training rows, which have the order of the probabilities."""
        return cls(_keys(rows, schema), probabilities)

    def save(self, uri: str) -> None:
        """Write the record into the folder of the bundle."""
        import pandas as pd

        frame = pd.DataFrame({"key": self.keys, "probability": self.probabilities})
        write_bytes(join(uri, RECORD), to_parquet(frame))

    @classmethod
    def load(cls, uri: str) -> OutOfFold:
        """Return the record beside the bundle at `uri`.

        Raises:
            BundleIncompleteError: there is none.
        """
        try:
            frame = from_parquet(read_bytes(join(uri, RECORD)))
        except ArtifactNotFoundError as error:
            raise BundleIncompleteError(
                f"The bundle at {uri} has no {RECORD}, so nothing can be compared with it on its training rows.",
                remedy="Choose the champion manually with 'churn model promote', or train it again.",
            ) from error
        return cls(frame["key"].to_numpy(np.uint64), frame["probability"].to_numpy(np.float32))


def unseen_probabilities(bundle: ModelBundle, record: OutOfFold, rows: Frame) -> NDArray[np.float32]:
    """Return P(churn) of each row by a model that has not seen it.

    Rows that the bundle was trained on have their recorded probability; others are scored by the bundle.

    Args:
        bundle: a model.
        record: the record of its training rows.
        rows: n customers with their raw columns.

    Returns:
        shape (n,), 0..1.

    Raises:
        FeatureError: a column is missing or a value has no feature.
    """
    from churn_platform.files.stored_frame import StoredFrame

    wanted = _keys(rows, bundle.schema)
    order = np.argsort(record.keys, kind="stable")
    places = np.minimum(np.searchsorted(record.keys[order], wanted), len(order) - 1)
    recorded = record.keys[order][places] == wanted
    probabilities = record.probabilities[order][places]
    if not recorded.all():
        start, names = 0, bundle.schema.feature_columns
        for block in rows.blocks(names) if isinstance(rows, StoredFrame) else [rows]:
            others = np.flatnonzero(~recorded[start : start + len(block)])
            if len(others):
                probabilities[start + others] = bundle.score(columns_of(block.iloc[others], names))
            start += len(block)
    return probabilities


def _keys(rows: Frame, schema: CustomerSchema) -> NDArray[np.uint64]:
    import pandas as pd

    from churn_platform.files.stored_frame import StoredFrame

    names = schema.feature_columns
    found = []
    for block in rows.blocks(names) if isinstance(rows, StoredFrame) else [rows]:
        columns = pd.DataFrame(columns_of(block, names), copy=False)
        found.append(np.asarray(pd.util.hash_pandas_object(columns, index=False), np.uint64))
    return np.concatenate(found)
