"""The daily comparison of both arms of the call list: from its entries and the outcomes to rows of retention_effect."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg

from churn_platform.database import retention_effect
from churn_platform.database.retention_effect import Entry
from churn_platform.retention.arm import CONTACT, CONTROL
from churn_platform.retention.effect import Effect, Entrant, Interval, Known, State, effect_of, state_at_end, tally

ALL: Final = "all"
COUNTS: Final = ("entered", "open", "unknown", "stayed", "left", "contacted")
"""The fields of an arm that are columns of retention_effect."""


def compute(
    connection: psycopg.Connection, *, outcome_days: int, customer_value: float | None, now: datetime
) -> Effect:
    """Compare the arms in total, by month and by segment, and replace the rows of the day, in one transaction.

    Args:
        connection: not in a transaction.
        outcome_days: days after an entry in which the customer has to leave to count.
        customer_value: money that is lost with a customer of whom no amount is known.
        now: until when outcomes are known. Its day, UTC, is that of the rows.

    Returns:
        The comparison in total.
    """
    window = timedelta(days=outcome_days)
    with connection.transaction():
        entries = retention_effect.entries(connection, window=window)
        states = _states(connection, entries, window, now)
        retention_effect.settle(
            connection,
            [
                (each.entry, states[each.entry] == "left", each.contacted)
                for each in entries
                if each.settled is None and states[each.entry] in ("left", "stayed")
            ],
        )
        groups: dict[tuple[str, str, str], list[Entrant]] = defaultdict(list, {(ALL, ALL, ALL): []})
        for entry in entries:
            over_at = entry.entered_at.astimezone(UTC) + window
            entrant = Entrant(entry.arm, over_at, states[entry.entry], entry.contacted, entry.money_at_risk)
            for group in _groups_of(entry):
                groups[group].append(entrant)
        effects = {}
        for group, entrants in groups.items():
            results = tally(entrants)
            effects[group] = effect_of(results[CONTACT], results[CONTROL], customer_value=customer_value)
        rows = [_row(group, effect, outcome_days) for group, effect in effects.items()]
        retention_effect.replace_day(connection, now.astimezone(UTC).date(), rows)
    return effects[ALL, ALL, ALL]


def _states(
    connection: psycopg.Connection, entries: Sequence[Entry], window: timedelta, now: datetime
) -> dict[int, State]:
    """Return the state of each entry, by its number."""
    unsettled = [each for each in entries if each.settled is None and each.entered_at + window <= now]
    known: dict[int | str, list[Known]] = defaultdict(list)
    for customer, at, left in retention_effect.known_outcomes(connection, [each.customer_id for each in unsettled]):
        known[customer].append(Known(at, left))
    states: dict[int, State] = {}
    for each in entries:
        if each.settled is None:
            states[each.entry] = state_at_end(each.entered_at, window, known[each.customer_id], now=now)
        else:
            states[each.entry] = "left" if each.settled else "stayed"
    return states


def _groups_of(entry: Entry) -> Iterator[tuple[str, str, str]]:
    """Yield month, segment and value of the groups that an entry belongs to."""
    yield ALL, ALL, ALL
    yield entry.month, ALL, ALL
    for segment, value in entry.segments.items():
        yield ALL, segment, value


def _row(group: tuple[str, str, str], effect: Effect, outcome_days: int) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(("month", "segment", "value"), group, strict=True))
    row["outcome_days"] = outcome_days
    for arm, result in ((CONTACT, effect.contact), (CONTROL, effect.control)):
        counts = {name: count for name, count in asdict(result).items() if name in COUNTS}
        row |= {f"{arm}_{name}": count for name, count in counts.items()}
        row[f"{arm}_churn_rate"] = result.churn_rate
    for name in ("reduction", "customers_saved", "money_saved"):
        interval: Interval | None = getattr(effect, name)
        row[name] = None if interval is None else interval.value
        row[f"{name}_low"] = None if interval is None else interval.low
        row[f"{name}_high"] = None if interval is None else interval.high
    row |= {"cases_needed": effect.cases_needed, "conclusion": effect.conclusion, "warnings": list(effect.warnings)}
    return row
