"""What the demonstration reads from the database: counts of the ledger and latencies."""

from dataclasses import dataclass
from typing import Final

import psycopg

from churn_platform.database import summary
from churn_platform.simulation.exceptions import DemoError

ROWS_SHOWN: Final = 10


@dataclass(frozen=True)
class Totals:
    """Counts of the ledger: events by result, batches, and high-risk rows."""

    events: int
    predictions: int
    dead_letters: int
    duplicates: int
    erased: int
    batches: int
    high_risk: int

    def since(self, before: "Totals") -> "Totals":
        """Return the difference to earlier counts."""
        return Totals(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))


def totals(connection: psycopg.Connection) -> Totals:
    """Return the ledger's counts over all batches."""
    return Totals(**summary.totals(connection))


def latency_ms(connection: psycopg.Connection, *, since: float) -> tuple[float, float]:
    """Return the percentiles 50 and 99 of the time from an event to its visible row, in milliseconds.

    Args:
        connection: to the platform's database.
        since: only events with a time from then on count, in seconds since 1970. Late events are older.

    Raises:
        DemoError: no event was predicted.
    """
    seconds = summary.latency_percentiles(connection, since=since, percentiles=(0.5, 0.99))
    if seconds is None:
        raise DemoError("No event was predicted.", remedy="The page of the streaming run in Dagster shows why.")
    p50, p99 = seconds
    return p50 * 1000, p99 * 1000
