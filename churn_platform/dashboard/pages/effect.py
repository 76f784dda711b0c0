"""The page that says whether calls help: both arms compared, called or not."""

from collections.abc import Sequence
from typing import Final

import psycopg

from churn_platform.dashboard.charts import Axis, Bound, Chart, Heading, Series, interval_chart
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.segments import described
from churn_platform.database import retention_effect
from churn_platform.database.retention_effect import Comparison

ALL: Final = "all"
"""How retention_effect names all months and all segments."""
FEW: Final = 30
"""Groups with fewer known outcomes are grey: chance decides more than the calls."""


def read(visit: Visit, connection: psycopg.Connection) -> View:
    """Return the latest comparison of both arms."""
    found = retention_effect.latest(connection)
    months = [each for each in found if each.month != ALL]
    segments = [each for each in found if each.segment != ALL]
    named = [(*described(visit.schema, {each.segment: each.value})[0], each) for each in segments]
    total = next((each for each in found if each.month == ALL and each.segment == ALL), None)
    return View(
        "effect.html.j2",
        "Do calls help?",
        {
            "total": total,
            "tone": _tone(total),
            "months": [(each.month, each) for each in reversed(months)],
            "segments": [
                (name, [(value, each) for segment, value, each in named if segment == name])
                for name in dict.fromkeys(segment for segment, _, _ in named)
            ],
            "few": FEW,
            "month_chart": None if total is None else _month_chart(total, months),
            "segment_chart": _segment_chart(named),
        },
    )


def _tone(total: Comparison | None) -> str:
    if total is None or total.reduction_low is None or total.reduction_high is None:
        return ""
    return "good" if total.reduction_low > 0 else "bad" if total.reduction_high < 0 else ""


def _month_chart(total: Comparison, months: Sequence[Comparison]) -> Chart:
    named = [("All months", total), *((each.month, each) for each in months)]
    return _chart(Heading("months", "Reduction of churn by month of entry", total.conclusion), named, x_title="Month")


def _segment_chart(segments: Sequence[tuple[str, str, Comparison]]) -> Chart:
    named = [(f"{segment}: {value}", each) for segment, value, each in segments]
    clear = [
        name
        for name, each in named
        if each.reduction_low is not None
        and each.reduction_high is not None
        and (each.reduction_low > 0 or each.reduction_high < 0)
    ]
    summary = (
        f"The interval excludes 0 for {', '.join(clear)}. Of twenty groups without an effect, one is expected to."
        if clear
        else "In no group the interval excludes 0."
    )
    return _chart(Heading("segments", "Reduction of churn by segment", summary), named, x_title="Segment")


def _chart(heading: Heading, named: Sequence[tuple[str, Comparison]], *, x_title: str) -> Chart:
    """Return a chart of those whose reduction is known, in percentage points with 95 % intervals."""
    known = [
        (name, 100 * each.reduction, 100 * each.reduction_low, 100 * each.reduction_high)
        for name, each in named
        if each.reduction is not None and each.reduction_low is not None and each.reduction_high is not None
    ]
    return interval_chart(
        heading,
        [name for name, *_ in known],
        Series("Reduction", [value for _, value, *_ in known]),
        lows=[low for _, _, low, _ in known],
        highs=[high for *_, high in known],
        x_title=x_title,
        y=Axis("percentage points", digits=1),
        bounds=[Bound(0, "no effect")],
    )


PAGES: Final[Sequence[Page]] = (Page("/calls/effect", read),)
