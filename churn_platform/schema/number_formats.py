"""How files write numbers and dates: decimal commas, thousands separators, the order of day and month. Pure; no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

Decimal = Literal["", ".", ","]
"""The decimal separator; empty if nothing shows which it is."""

NO_NUMBER: Final = "?"
_GAPS: Final = " '_\u2019\u00a0\u202f"  # thousands separators that cannot be a decimal separator
_COMMA: Final = (
    r"^-?("
    r"0,[0-9]+"
    r"|[0-9]+,([0-9]{1,2}|[0-9]{4,})"
    r"|[0-9]{4,},[0-9]+"
    rf"|[0-9]{{1,3}}([.{_GAPS}][0-9]{{3}})+,[0-9]+"
    r"|[0-9]{1,3}(\.[0-9]{3}){2,}"
    r")$"
)
"""Numbers that can only have a decimal comma."""
_POINT: Final = (
    r"^-?("
    r"0\.[0-9]+"
    r"|[0-9]+\.([0-9]{1,2}|[0-9]{4,})"
    r"|[0-9]{4,}\.[0-9]+"
    rf"|[0-9]{{1,3}}([,{_GAPS}][0-9]{{3}})+\.[0-9]+"
    r"|[0-9]{1,3}(,[0-9]{3}){2,}"
    r")$"
)
"""Numbers that can only have a decimal point."""
_WHOLE_WITH_POINTS: Final = r"^-?[1-9][0-9]{0,2}(\.[0-9]{3})*\.([0-9]{2}[1-9]|[0-9][1-9]0|[1-9]00)$"
_WHOLE_WITH_COMMAS: Final = r"^-?[1-9][0-9]{0,2}(,[0-9]{3})+$"
_GROUPED_POINT: Final = rf"^-?[0-9]{{1,3}}([,{_GAPS}][0-9]{{3}})+(\.[0-9]+)?$"
_GROUPED_COMMA: Final = rf"^-?([0-9]+|[0-9]{{1,3}}([.{_GAPS}][0-9]{{3}})+)(,[0-9]+)?$"
_GROUPED: Final = rf"^-?[0-9]{{1,3}}([{_GAPS}][0-9]{{3}})+$"

_YEAR_FIRST: Final = re.compile(r"([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})(?:[T ][0-9:.]+(?:Z|[+-][0-9:]+)?)?")
_YEAR_LAST: Final = re.compile(r"([0-9]{1,2})([-/.])([0-9]{1,2})\2([0-9]{4})(?: [0-9:.]+)?")
_MONTHS: Final = 12


def decimal_evidence(texts: pa.ChunkedArray, *, whole: bool) -> tuple[int, int]:
    """Return how many numbers of a column can only have a decimal comma, and how many only a decimal point.

    Args:
        texts: the values, trimmed; null if missing.
        whole: whether the column has whole numbers, where `2.500` cannot be two and a half.
    """
    comma, point = _count(texts, _COMMA), _count(texts, _POINT)
    if whole:
        comma, point = comma + _count(texts, _WHOLE_WITH_POINTS), point + _count(texts, _WHOLE_WITH_COMMAS)
    return comma, point


def majority(evidence: Sequence[tuple[int, int]]) -> Decimal:
    """Return the decimal separator that most of the evidence is for; empty without evidence."""
    comma, point = sum(each[0] for each in evidence), sum(each[1] for each in evidence)
    if comma == point:
        return "." if point else ""
    return "," if comma > point else "."


def plain_numbers(texts: pa.ChunkedArray, decimal: Decimal) -> pa.ChunkedArray:
    """Return numbers without thousands separators and with a decimal point. Texts that are no numbers stay.

    With a decimal comma, NO_NUMBER replaces those with a decimal point, so that nobody reads them as numbers.
    """
    if decimal == ",":
        grouped = pc.match_substring_regex(texts, _GROUPED_COMMA)
        plain = pc.replace_substring(pc.replace_substring_regex(texts, rf"[.{_GAPS}]", ""), ",", ".")
        return pc.if_else(grouped, plain, pc.if_else(pc.match_substring(texts, "."), NO_NUMBER, texts))
    grouped = pc.match_substring_regex(texts, _GROUPED_POINT if decimal else _GROUPED)
    return pc.if_else(grouped, pc.replace_substring_regex(texts, rf"[,{_GAPS}]", ""), texts)


def parse_dates(texts: Sequence[str | None], order: DateOrder | None = None) -> list[date | None]:
    """Return the dates that the texts state, None for each that states none.

    Year, month, day in this order, separated by -, / or points, maybe with a time. If the year comes last, the day
    comes first with points; otherwise the column's dates show which it is, if one has a number above 12.

    Args:
        texts: the values, trimmed; None if missing.
        order: what all dates of the column show; None if these are all of them.
    """
    day_first = (order or date_order(texts)).day_first
    return [None if text is None else _date(text, day_first=day_first) for text in texts]


@dataclass(frozen=True)
class DateOrder:
    """What the dates of a column show about the order of day and month where the year comes last.

    Attributes:
        shows_day_first: whether a date has a first number above 12.
        shows_month_first: whether a date has a second number above 12.
    """

    shows_day_first: bool = False
    shows_month_first: bool = False

    @property
    def day_first(self) -> bool | None:
        """Whether the day comes first; None if that is not known."""
        return None if self.shows_day_first == self.shows_month_first else self.shows_day_first

    def __or__(self, other: DateOrder) -> DateOrder:
        return DateOrder(
            self.shows_day_first or other.shows_day_first, self.shows_month_first or other.shows_month_first
        )


def date_order(texts: Sequence[str | None]) -> DateOrder:
    """Return what these dates show about the order of day and month."""
    found = [match for text in texts if text and (match := _YEAR_LAST.fullmatch(text)) and match[2] != "."]
    return DateOrder(any(int(match[1]) > _MONTHS for match in found), any(int(match[3]) > _MONTHS for match in found))


def _date(text: str, *, day_first: bool | None) -> date | None:
    if match := _YEAR_FIRST.fullmatch(text):
        year, month, day = match[1], match[3], match[4]
    elif match := _YEAR_LAST.fullmatch(text):
        order = True if match[2] == "." else day_first
        if order is None:
            return None
        year, month, day = (match[4], match[3], match[1]) if order else (match[4], match[1], match[3])
    else:
        return None
    try:
        return date(int(year), int(month), int(day))
    except ValueError:  # such as February 30
        return None


def _count(texts: pa.ChunkedArray, pattern: str) -> int:
    return pc.sum(pc.match_substring_regex(texts, pattern)).as_py() or 0
