"""Events of the two weeks before a demonstration, so that pages which compare days and weeks have something to show."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Final

import msgspec

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.simulation.producer import Row, customer_event

# The latency of the stream is that of the events of the last hour. Past events are older, and not part of it.
NEWEST: Final = timedelta(hours=1)
# Two weeks before today: the dashboard compares the last week with the one before.
DAYS: Final = 14
# Relative number of events by weekday, Monday first, and by hour (UTC): fewer at the weekend and at night. No night is
# without events, so that the metrics of all hours are one run (see database.metrics.windows()).
WEEKDAY_WEIGHTS: Final = (1.0, 1.0, 0.95, 0.95, 1.1, 0.6, 0.5)
HOUR_WEIGHTS: Final = (*[0.1] * 6, 0.4, 0.8, *[1.0] * 10, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1)
# Share of the customers who left that have events on the first day; it rises to 1 until now. The churn rate rises with
# it, so that there is a trend to see.
FIRST_SHARE_OF_LEAVERS: Final = 0.6


def events(
    rows: Sequence[Row], schema: CustomerSchema, *, now: datetime, count: int, chance: random.Random
) -> Iterator[tuple[str, bytes]]:
    """Generate keys and values of past events in the order of their times.

    Args:
        rows: customers, as `rows_of` returns them; at least one.
        schema: of the customers.
        now: the present, with a time zone. Every event is at least an hour older.
        count: how many.
        chance: makes every choice.
    """
    times = event_times(now, count=count, chance=chance)
    for moment, row in zip(times, customers_at(times, rows, schema, chance), strict=True):
        yield str(row[schema.id]), msgspec.json.encode(customer_event(row, schema, moment=moment))


def event_times(now: datetime, *, count: int, chance: random.Random) -> list[datetime]:
    """Return the times of past events in order, from the begin of the UTC day two weeks ago until an hour ago.

    Args:
        now: the present, with a time zone.
        count: how many.
        chance: makes the choice.
    """
    first = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    end = now - NEWEST
    hours = [first + timedelta(hours=number) for number in range(ceil((end - first) / timedelta(hours=1)))]
    weights = [WEEKDAY_WEIGHTS[hour.weekday()] * HOUR_WEIGHTS[hour.hour] for hour in hours]
    chosen = chance.choices(hours, weights, k=count)
    return sorted(hour + chance.random() * min(timedelta(hours=1), end - hour) for hour in chosen)


def customers_at(
    times: Sequence[datetime], rows: Sequence[Row], schema: CustomerSchema, chance: random.Random
) -> Iterator[Row]:
    """Generate a customer for each time. Those who left have fewer events at first than later.

    Args:
        times: of the events, in order; at least one.
        rows: customers, as `rows_of` returns them; at least one.
        schema: of the customers.
        chance: makes the choice.
    """
    first, span = times[0], max(times[-1] - times[0], timedelta(seconds=1))
    staying = [row for row in rows if not row.get(schema.target)] or rows
    for moment in times:
        row = chance.choice(rows)
        share = FIRST_SHARE_OF_LEAVERS + (1 - FIRST_SHARE_OF_LEAVERS) * ((moment - first) / span)
        yield row if not row.get(schema.target) or chance.random() < share else chance.choice(staying)
