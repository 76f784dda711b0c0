"""Features that a model is trained on, in a file that may be larger than memory: one row group of it at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.transform import take_features

if TYPE_CHECKING:
    from churn_platform.files.stored_frame import StoredFrame


class StoredFeatures:
    """The features of stored rows. It holds none of them."""

    def __init__(self, frame: StoredFrame, names: Sequence[str]) -> None:
        """Read nothing yet.

        Args:
            frame: the prepared features.
            names: the features, in the order of the model.
        """
        self._frame = frame
        self._names = [*names]

    def __len__(self) -> int:
        return len(self._frame)

    def blocks(self, among: NDArray[np.intp] | None = None) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Yield the numbers of rows, shape (m,), and their features, shape (m, features). No block is empty.

        Args:
            among: the numbers of the rows to yield, ascending; None for all.
        """
        start = 0
        for group, size in enumerate(self._frame.group_rows):
            numbers = np.arange(start, start + size)
            start += size
            if among is not None:
                numbers = among[np.searchsorted(among, numbers[0]) : np.searchsorted(among, start)] if size else numbers
            if not len(numbers):
                continue
            rows = take_features(self._frame.rows([group], columns=self._names), self._names)
            yield numbers, rows if len(numbers) == size else rows[numbers - (start - size)]
