"""The duty that adds up latencies and kinds of dead letters for Prometheus: it follows the stream's commits."""

from typing import Final

import psycopg

from churn_platform.database import stream_totals, worker_positions
from churn_platform.database.new_rows import NewRows

NAME: Final = "totals"

# Seconds between two looks at the stream's positions. Prometheus asks every 15 s, and reading the rows of 10 s at 5,000
# events per second takes 50 ms.
INTERVAL_SECONDS: Final = 10.0
# Offsets that one run follows at most. Reading their rows takes a second.
MOST_OFFSETS: Final = 1_000_000


class TotalsDuty:
    """Adds what was committed since its last run. One worker at a time runs it. The first run starts at the present."""

    name = NAME
    exclusive = True
    interval = INTERVAL_SECONDS

    def __init__(self) -> None:
        """Read nothing yet."""
        self._new_rows = NewRows()
        self._has_commit_times: bool | None = None
        self._has_begun = False

    def run(self, connection: psycopg.Connection) -> bool:
        """Add the commits since the last run; return whether there are more than one run follows."""
        if self._has_commit_times is None:
            self._has_commit_times = stream_totals.records_commit_times(connection)
        if not self._has_begun:
            if not worker_positions.has_begun(connection, NAME):
                worker_positions.begin(connection, NAME)
            self._has_begun = True  # a stream that had no partition yet is followed from its first offset on
        if not worker_positions.behind(connection, NAME):
            return False
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read")
            behind = worker_positions.behind(connection, NAME)
            following = worker_positions.first_offsets(behind, MOST_OFFSETS)
            is_all = following == behind
            ranges = worker_positions.row_ranges(connection, following)
            first_block, new_rows = self._new_rows.read(connection, ranges) if is_all else (None, NewRows())
            stream_totals.add_predictions(
                connection, ranges, first_block=first_block, has_commit_times=self._has_commit_times
            )
            stream_totals.add_dead_letters(connection, following)
            worker_positions.advance(connection, NAME, following)
        self._new_rows = new_rows  # only now: after an error, the same rows are read again
        return not is_all
