"""What a model said of its own training rows without having seen them, kept beside its bundle.

A later model is compared with it on the same rows. The bundle itself would have an unfair advantage there: it has
learned those rows by heart. No customer is kept, only a hash of what the model reads of one, and P(churn).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import INPUT_COLUMNS, columns_of
from churn_platform.files.artifacts import join, read_bytes, write_bytes
from churn_platform.files.exceptions import ArtifactNotFoundError
from churn_platform.files.parquet import from_parquet, to_parquet
from churn_platform.modeling.exceptions import BundleIncompleteError
from churn_platform.scoring.bundle import ModelBundle

if TYPE_CHECKING:
    import pandas as pd

RECORD: Final = "out_of_fold.parquet"


@dataclass(frozen=True)
class OutOfFold:
    """P(churn) out of fold. Both of shape (n,); `keys` are hashes of the raw columns that features are made of."""

    keys: NDArray[np.uint64]
    probabilities: NDArray[np.float32]

    @classmethod
    def of(cls, rows: pd.DataFrame, probabilities: NDArray[np.float32]) -> OutOfFold:
        """The record of training rows, raw columns among them, in the order of the probabilities."""
        return cls(_keys(rows), probabilities)

    def save(self, uri: str) -> None:
        """Write the record into the folder of the bundle."""
        import pandas as pd

        frame = pd.DataFrame({"key": self.keys, "probability": self.probabilities})
        write_bytes(join(uri, RECORD), to_parquet(frame))

    @classmethod
    def load(cls, uri: str) -> OutOfFold:
        """The record beside the bundle at `uri`.

        Raises:
            BundleIncompleteError: there is none.
        """
        try:
            frame = from_parquet(read_bytes(join(uri, RECORD)))
        except ArtifactNotFoundError as error:
            raise BundleIncompleteError(
                f"The bundle at {uri} has no {RECORD}, so nothing can be compared with it on its training rows. "
                f"Choose the champion by hand, 'churn model promote', or train it again."
            ) from error
        return cls(frame["key"].to_numpy(np.uint64), frame["probability"].to_numpy(np.float32))


def unseen_probabilities(bundle: ModelBundle, record: OutOfFold, rows: pd.DataFrame) -> NDArray[np.float32]:
    """P(churn) of each row by a model that has not seen it: out of fold if the bundle learned from it, else its own.

    Args:
        bundle: a model.
        record: of the rows it learned from.
        rows: n customers with their raw columns.

    Returns:
        shape (n,), 0..1.

    Raises:
        FeatureError: a column is missing or a value has no feature.
    """
    wanted = _keys(rows)
    order = np.argsort(record.keys, kind="stable")
    places = np.minimum(np.searchsorted(record.keys[order], wanted), len(order) - 1)
    learned = record.keys[order][places] == wanted
    probabilities = record.probabilities[order][places]
    if not learned.all():
        probabilities[~learned] = bundle.score(columns_of(rows[~learned]))
    return probabilities


def _keys(rows: pd.DataFrame) -> NDArray[np.uint64]:
    import pandas as pd

    return np.asarray(pd.util.hash_pandas_object(rows[[*INPUT_COLUMNS]], index=False), np.uint64)
