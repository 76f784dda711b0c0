"""Numbers, amounts and times as people write them. Times are written in UTC; the page's script converts them to the
time zone of the browser."""

from datetime import UTC, date, datetime
from typing import Final

from markupsafe import Markup, escape

from churn_platform.schema.columns import as_words

NOTHING: Final = "\u2013"
"""Stands for a value that is not known."""
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def number(value: float | None, digits: int = 0) -> str:
    """Return a number such as 125,510 or 0.38."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def counted(value: float, noun: str) -> str:
    """Return a whole number of something, such as 1 event or 12,345 events."""
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def short_number(value: float | None) -> str:
    """Return a number of at most four digits with its unit, such as 12.3 k or 4.1 M."""
    if value is None:
        return NOTHING
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):,.1f} {unit}"
    return number(value)


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share, 0..1, as a percentage such as 20.4 %."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def points(difference: float | None, digits: int = 1) -> str:
    """Return a difference of two shares in percentage points, with its sign, such as +1.2 points."""
    return NOTHING if difference is None else f"{100 * difference:+.{digits}f} points"


def money(amount: float | None, currency: str) -> str:
    """Return an amount such as 125,510 EUR. Cents are left out: they say nothing about a risk."""
    return NOTHING if amount is None else f"{amount:,.0f} {currency}".rstrip()


def milliseconds(value: float | None) -> str:
    """Return a duration such as 23 ms or 1.2 s."""
    return NOTHING if value is None else f"{value:.0f} ms" if value < 1_000 else duration(value / 1_000)


def duration(seconds: float | None) -> str:
    """Return a duration such as 4.2 s, 12 min, 3 h or 5 days."""
    if seconds is None:
        return NOTHING
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((_HOUR, _MINUTE, "min"), (2 * _DAY, _HOUR, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / _DAY:.0f} days"


def moment(value: datetime | None, style: str = "full") -> Markup:
    """Return a time as an HTML element.

    Args:
        value: with a time zone.
        style: "full", "time" or "ago": what the page's script makes of it in the time zone of the browser.
    """
    if value is None:
        return escape(NOTHING)
    in_utc = value.astimezone(UTC)
    text = f"{in_utc:%H:%M} UTC" if style == "time" else f"{day(in_utc)}, {in_utc:%H:%M} UTC"
    return Markup('<time datetime="{}" data-style="{}">{}</time>').format(in_utc.isoformat(), style, text)


def day(value: date | None) -> str:
    """Return a day such as 24 Nov 2026."""
    return NOTHING if value is None else f"{value.day} {value:%b %Y}"


def label(column: str) -> str:
    """Return the name of a column of a table for people: risk_score -> Risk score."""
    return as_words(column)
