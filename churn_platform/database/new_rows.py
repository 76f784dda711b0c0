"""Finds the new rows of churn_predictions at a cost that follows their number, not the size of their batch.

No index leads to the rows of some offsets: the one on `batch` leads to all rows of a batch, of which there may be a
million. New rows are in the last blocks of the table, except where a deletion has left space. So only the last blocks
are read, if they are known to hold all of the new rows: the ledger says how many predictions each batch has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg

from churn_platform.database import stream_batches, worker_positions
from churn_platform.database.worker_positions import RowRange

# PostgreSQL may make a table this much longer at once, and fill these blocks later.
MARGIN_BLOCKS: Final = 128


@dataclass(frozen=True)
class NewRows:
    """What is known from the two readings before. It is lost with the process; then whole batches are read once.

    A reading that is not applied, because its transaction failed, changes nothing: keep the object from before it.

    Attributes:
        sizes: of the table before those readings, in blocks, the older one first. A commit that was under way at the
            later one may have rows below its size, and not below that of the older one.
        counted: predictions of each batch at the last reading.
    """

    sizes: Sequence[int] = ()
    counted: Mapping[str, int] = field(default_factory=dict)

    def read(self, connection: psycopg.Connection, ranges: Sequence[RowRange]) -> "tuple[int | None, NewRows]":
        """Return a block of churn_predictions such that it and later ones hold all rows of these ranges.

        Call it once for each reading, in a transaction with one snapshot for all statements. The ranges are all that
        was committed since the last reading that was applied.

        Returns:
            The block, or None if it is not known; and what is known once the rows of these ranges are applied.
        """
        sizes = (*self.sizes[-1:], worker_positions.block_count(connection))
        counts = stream_batches.prediction_counts(connection, sorted({each.batch for each in ranges}))
        first = None
        if len(self.sizes) == 2:
            first = max(0, self.sizes[0] - MARGIN_BLOCKS)
            expected = sum(count - self.counted.get(batch, 0) for batch, count in counts.items())
            if worker_positions.count_rows(connection, ranges, first_block=first) != expected:
                first = None
        return first, NewRows(sizes, counts)
