"""The page about the present: what the stream does, and whether anything is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import psycopg

from churn_platform.dashboard.charts import Axis, Chart, Heading, Series, line_chart
from churn_platform.dashboard.formats import NOTHING, counted, milliseconds, percent
from churn_platform.dashboard.latencies import percentile
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.segments import FEW
from churn_platform.database import model_versions, operator_conditions, stream_lag
from churn_platform.database.pages import now as reading
from churn_platform.database.pages.now import Day, Minute
from churn_platform.database.stream_minutes import LATENCY_BOUNDS_MS
from churn_platform.retention.effect import newcombe_interval

REFRESH_SECONDS: Final = 5
MINUTES: Final = 60
"""Minutes that the charts show."""
LATENCY_MINUTES: Final = 5
"""Minutes that the figures of latency and rate are about, without the one that is not over."""
SILENT_SECONDS: Final = 60
"""The resident worker counts every few seconds. After this time without it, the page says so."""


@dataclass(frozen=True)
class Comparison:
    """The churn rate of today beside that of another day, so far as both are known.

    Attributes:
        text: the rate of the other day, or why there is no comparison.
        difference: today minus the other day, -1..1.
        is_clear: whether chance alone does not explain the difference.
    """

    text: str
    difference: float | None = None
    is_clear: bool = False


def read(visit: Visit, connection: psycopg.Connection) -> View:
    """Return what the stream does now."""
    minutes = reading.minutes(connection, count=MINUTES)
    days = reading.days(connection, (0, 1, 7), without_controls=visit.hides_controls)
    lag = stream_lag.latest(connection)
    this_minute = visit.now.replace(second=0, microsecond=0)
    recent = [each for each in minutes if this_minute - timedelta(minutes=LATENCY_MINUTES) <= each.minute < this_minute]
    counts = [sum(each) for each in zip(*(each.latency_counts for each in recent), strict=True)]
    return View(
        "now.html.j2",
        "Now",
        {
            "today": days[0],
            "hides_controls": visit.hides_controls,
            "comparisons": [
                compare_days("yesterday", days[0], days[1]),
                compare_days("a week ago", days[0], days[7]),
            ],
            "events_a_minute": sum(each.predictions + each.dead_letters for each in recent) / LATENCY_MINUTES,
            "latency": {share: _latency(counts, share) for share in (0.5, 0.99)},
            "late": counts[-1] if counts else 0,
            "lag": lag,
            "dead_letters": sum(each.dead_letters for each in minutes),
            "stream": reading.stream(connection),
            "champion": model_versions.champion(connection),
            "conditions": operator_conditions.open_conditions(connection),
            "worker_is_silent": lag is None or (visit.now - lag.read_at).total_seconds() > SILENT_SECONDS,
            "rate_chart": _rate_chart(minutes, until=this_minute),
            "latency_chart": _latency_chart(minutes, until=this_minute),
        },
        refresh=REFRESH_SECONDS,
    )


def compare_days(name: str, today: Day, other: Day) -> Comparison:
    """Compare the churn rate of today with that of another day, which `name` names in a sentence."""
    if today.churn_rate is None or other.churn_rate is None:
        return Comparison(f"no predictions {name}" if other.churn_rate is None else f"{name}: {NOTHING}")
    if min(today.predictions, other.predictions) < FEW:
        return Comparison("not known: few predictions")
    change = newcombe_interval(today.churn_count, today.predictions, other.churn_count, other.predictions)
    is_clear = change.low > 0 or change.high < 0
    text = f"{percent(other.churn_rate)} {name}"
    return Comparison(text if is_clear else f"{text}; chance may explain it", change.value, is_clear)


def _latency(counts: Sequence[int], share: float) -> float | None:
    """Return a percentile in milliseconds.

    Events that were older than the last bound, an hour, were sent late, and their age says nothing of the stream. What
    waits is the lag.
    """
    return percentile([*counts[:-1], 0], share, bounds=LATENCY_BOUNDS_MS)


def _every_minute(minutes: Sequence[Minute], until: datetime) -> tuple[list[datetime], dict[datetime, Minute]]:
    """Return the last minutes, also those in which nothing was read, and what is known of each."""
    return [until - timedelta(minutes=ago) for ago in range(MINUTES, 0, -1)], {each.minute: each for each in minutes}


def _rate_chart(minutes: Sequence[Minute], *, until: datetime) -> Chart:
    every, known = _every_minute(minutes, until)
    predictions = [float(known[each].predictions) if each in known else 0.0 for each in every]
    dead_letters = [float(known[each].dead_letters) if each in known else 0.0 for each in every]
    summary = (
        f"{counted(sum(predictions), 'prediction')} and {counted(sum(dead_letters), 'dead letter')} in the last "
        f"{MINUTES} minutes; at most {counted(max(predictions), 'prediction')} in one of them."
    )
    return line_chart(
        Heading("rate", "Events by minute", summary),
        every,
        [Series("Predictions", predictions), Series("Dead letters", dead_letters, "bad")],
        x_title="Minute",
        y=Axis("events a minute", range=None if any(predictions) else (0, 1)),
    )


def _latency_chart(minutes: Sequence[Minute], *, until: datetime) -> Chart:
    every, known = _every_minute(minutes, until)

    def of(share: float) -> list[float | None]:
        return [_latency(known[each].latency_counts, share) if each in known else None for each in every]

    half, most = of(0.5), of(0.99)
    highest = max((each for each in most if each is not None), default=None)
    summary = (
        "No predictions in this time."
        if highest is None
        else f"In the slowest minute 99 % of the predictions were there within {milliseconds(highest)} of their event. "
        "Events older than an hour are left out."
    )
    return line_chart(
        Heading("latency", "Latency by minute", summary),
        every,
        [Series("Half within", half), Series("99 % within", most, "second")],
        x_title="Minute",
        y=Axis("ms", ticks=",", is_logarithmic=True),
    )


PAGES: Final[Sequence[Page]] = (Page("/now", read, label="Now"),)
