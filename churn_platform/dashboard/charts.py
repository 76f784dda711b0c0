"""Charts: what Plotly draws in the browser, together with the same as a sentence and as a table, for everybody who
does not see it. Pure.

Colors are roles ("main", "good", "bad", "muted"), which the page's script replaces by those of the light or dark theme.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import ceil, floor, log10
from typing import Final, Literal

from churn_platform.dashboard.formats import NOTHING, day, number

Color = Literal["main", "second", "third", "good", "bad", "muted"]
X = date | datetime | float | str
MOST_ROWS: Final = 400
"""Rows of the table of a chart. Longer ones are cut: the file of the page has all."""
MOST_BARS: Final = 8
"""Horizontal bars that fit into the height of a chart; with more, the chart is taller."""
BAR_PIXELS: Final = 34

SHORTEST_TIME: Final = timedelta(minutes=10)
"""What an axis of times shows at least, because its ticks show minutes."""
FEW_DAYS: Final = timedelta(days=7)
DAY_MILLISECONDS: Final = 86_400_000
MOST_DIVIDED_DECADES: Final = 3
"""Powers of ten on a logarithmic axis between which there is room for further ticks."""
MOST_MARKED: Final = 30
"""Points of a line that are marked. More would hide it; fewer may be far from each other."""


@dataclass(frozen=True)
class Series:
    """Values of one line or set of bars, in the order of the chart's x. None leaves a gap."""

    name: str
    values: Sequence[float | None]
    color: Color = "main"
    is_dashed: bool = False


@dataclass(frozen=True)
class Note:
    """Something that happened at a point of the x axis: a vertical line, with a text unless it is empty."""

    x: X
    text: str


@dataclass(frozen=True)
class Bound:
    """A value of the value axis that means something, such as the one from which a check fails."""

    value: float
    text: str
    color: Color = "muted"


@dataclass(frozen=True)
class Chart:
    """A chart, as templates show it with the macro `chart`.

    Attributes:
        key: unique on the page.
        title: what it shows.
        summary: what there is to see, as one or two sentences.
        figure: data and layout for Plotly.
        header: of the table.
        rows: of the table, as text.
        is_empty: whether there is nothing to draw.
        is_tall: whether it has so many horizontal bars that it needs more height than others.
    """

    key: str
    title: str
    summary: str
    figure: Mapping[str, object]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_empty: bool = False
    is_tall: bool = False

    @property
    def json(self) -> str:
        """The figure as JSON that can stand in an HTML element."""
        return json.dumps(self.figure, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@dataclass(frozen=True)
class Axis:
    """An axis: its title, the format of its ticks (d3-format), and its range if it is fixed."""

    title: str = ""
    ticks: str = ""
    range: tuple[float, float] | None = None
    digits: int = 0
    """Decimals of the values in the table."""
    is_logarithmic: bool = False


@dataclass(frozen=True)
class Heading:
    """What all charts have: a key that is unique on the page, a title, and what there is to see, as sentences."""

    key: str
    title: str
    summary: str


def line_chart(
    heading: Heading,
    x: Sequence[X],
    series: Sequence[Series],
    *,
    x_title: str,
    y: Axis,
    notes: Sequence[Note] = (),
    bounds: Sequence[Bound] = (),
    x_range: tuple[float, float] | None = None,
    x_ticks: str = "",
) -> Chart:
    """Return a chart of lines over time or another quantity.

    Args:
        heading: of the chart.
        x: of each point; times have a time zone.
        series: the lines.
        x_title: what x is.
        y: the vertical axis.
        notes: vertical lines with a text.
        bounds: horizontal lines with a text.
        x_range: of the x axis if it is fixed.
        x_ticks: the format of the ticks of the x axis (d3-format).
    """
    places = [_place(each) for each in x]
    traces: list[Mapping[str, object]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if sum(value is not None for value in each.values) <= MOST_MARKED else "lines",
            "name": each.name,
            "x": places,
            "y": list(each.values),
            "line": {"color": each.color, "width": 2, "dash": "dot" if each.is_dashed else "solid"},
            "marker": {"color": each.color},
        }
        for each in series
    ]
    shapes: list[Mapping[str, object]] = [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": _place(note.x),
            "x1": _place(note.x),
            "y0": 0,
            "y1": 1,
            "line": {"color": "muted", "width": 1, "dash": "dash"},
        }
        for note in notes
    ]
    # A shape's own label would be cut at the upper edge.
    texts = [
        {
            "xref": "x",
            "yref": "paper",
            "x": _place(note.x),
            "y": 1,
            "text": note.text,
            "textangle": -90,
            "xanchor": "right",
            "yanchor": "top",
            "showarrow": False,
            "borderpad": 0,
            "bgcolor": "card",  # readable where a line of the chart passes behind it
            "font": {"size": 11},
        }
        for note in notes
        if note.text
    ]
    shapes += [_bound(each) for each in bounds]
    return _chart(
        heading,
        traces,
        x_title=x_title,
        x=x,
        series=series,
        y=y,
        shapes=shapes,
        annotations=texts,
        x_range=x_range,
        x_ticks=x_ticks,
    )


def bar_chart(
    heading: Heading,
    names: Sequence[str],
    series: Sequence[Series],
    *,
    x_title: str,
    y: Axis,
    bounds: Sequence[Bound] = (),
    is_flat: bool = False,
    is_stacked: bool = False,
) -> Chart:
    """Return a chart of bars.

    Args:
        heading: of the chart.
        names: of the bars.
        series: one set of bars each.
        x_title: what the names are.
        y: the axis of the values.
        bounds: lines across the bars, with a text.
        is_flat: whether the bars are horizontal, for long names. The first is on top.
        is_stacked: whether the bars of a name lie on each other, not beside each other.
    """
    traces: list[Mapping[str, object]] = [
        {
            "type": "bar",
            "name": each.name,
            "orientation": "h" if is_flat else "v",
            "x": list(each.values) if is_flat else list(names),
            "y": list(names) if is_flat else list(each.values),
            "marker": {"color": each.color},
        }
        for each in series
    ]
    return _chart(
        heading,
        traces,
        x_title=x_title,
        x=names,
        series=series,
        y=y,
        is_flat=is_flat,
        shapes=[_bound(each, is_flat=is_flat) for each in bounds],
        is_stacked=is_stacked,
    )


def interval_chart(
    heading: Heading,
    names: Sequence[str],
    values: Series,
    *,
    lows: Sequence[float],
    highs: Sequence[float],
    x_title: str,
    y: Axis,
    bounds: Sequence[Bound] = (),
) -> Chart:
    """Return a chart of estimates, each a point with its interval, one below the other. The first is on top.

    Args:
        heading: of the chart.
        names: of the estimates.
        values: the estimates, all known.
        lows: lower ends of the intervals.
        highs: upper ends of the intervals.
        x_title: what the names are.
        y: the axis of the values.
        bounds: lines across the intervals, with a text.
    """
    known = [value for value in values.values if value is not None]
    trace: Mapping[str, object] = {
        "type": "scatter",
        "mode": "markers",
        "name": values.name,
        "x": known,
        "y": list(names),
        "marker": {"color": values.color, "size": 9},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - value for high, value in zip(highs, known, strict=True)],
            "arrayminus": [value - low for low, value in zip(lows, known, strict=True)],
            "color": values.color,
            "thickness": 2,
            "width": 4,
        },
    }
    return _chart(
        heading,
        [trace],
        x_title=x_title,
        x=names,
        series=[values, Series("From", lows), Series("To", highs)],
        y=y,
        is_flat=True,
        shapes=[_bound(each, is_flat=True) for each in bounds],
        has_legend=False,
    )


def waterfall_chart(
    heading: Heading, names: Sequence[str], changes: Sequence[float], *, total_name: str, x_title: str, y: Axis
) -> Chart:
    """Return a chart of how a value comes about: the changes one after the other, and their sum.

    Args:
        heading: of the chart.
        names: of the changes.
        changes: in the unit of y.
        total_name: of their sum.
        x_title: what the names are.
        y: the axis of the value.
    """
    every, values = [*names, total_name], [*changes, sum(changes)]
    trace: Mapping[str, object] = {
        "type": "waterfall",
        "orientation": "h",
        "measure": [*["relative"] * len(changes), "total"],
        "y": every,
        "x": values,
        "increasing": {"marker": {"color": "bad"}},
        "decreasing": {"marker": {"color": "good"}},
        "totals": {"marker": {"color": "muted"}},
        "connector": {"line": {"color": "muted", "width": 1}},
    }
    return _chart(heading, [trace], x_title=x_title, x=every, series=[Series(y.title, values)], y=y, is_flat=True)


def _chart(
    heading: Heading,
    traces: Sequence[Mapping[str, object]],
    *,
    x_title: str,
    x: Sequence[X],
    series: Sequence[Series],
    y: Axis,
    is_flat: bool = False,
    shapes: Sequence[Mapping[str, object]] = (),
    annotations: Sequence[Mapping[str, object]] = (),
    x_range: tuple[float, float] | None = None,
    x_ticks: str = "",
    is_stacked: bool = False,
    has_legend: bool | None = None,
) -> Chart:
    values: dict[str, object] = {"title": {"text": y.title}, "tickformat": y.ticks}
    if y.range is not None:
        values["range"] = list(y.range)
    if y.is_logarithmic:
        values |= {"type": "log", "tickvals": _logarithmic_ticks([each for one in series for each in one.values])}
    names: dict[str, object] = {"title": {"text": "" if is_flat else x_title}, "automargin": True}
    if is_flat:
        names["autorange"] = "reversed"
        names["ticksuffix"] = " "
    if x_range is not None:
        names["range"] = list(x_range)
    if x_ticks:
        names["tickformat"] = x_ticks
    times = [each for each in x if isinstance(each, date)]
    if times:
        names["range"] = [_place(each) for each in _around(times)]
    if x and isinstance(x[0], datetime):
        names["type"] = "date"
    elif x and isinstance(x[0], date):  # a day is the same in every time zone, so the script leaves it as it is
        names |= {"tickformat": "%-d %b\n%Y", "hoverformat": "%-d %b %Y"}
        if times[-1] - times[0] < FEW_DAYS:  # Plotly would repeat a day at each quarter of it
            names["dtick"] = DAY_MILLISECONDS
    if x and isinstance(x[0], str):
        names["type"] = "category"  # else names such as 1 and 2 would be numbers, and 2026-11 a date
    layout: dict[str, object] = {
        "xaxis": values if is_flat else names,
        "yaxis": names if is_flat else values,
        "showlegend": len(series) > 1 if has_legend is None else has_legend,
        "hovermode": "x unified" if traces and traces[0]["type"] == "scatter" and not is_flat else "closest",
        "shapes": list(shapes),
        "annotations": list(annotations),
        **({"barmode": "stack"} if is_stacked else {}),
    }
    is_tall = is_flat and len(x) > MOST_BARS
    if is_tall:
        layout["height"] = BAR_PIXELS * (len(x) + 3)
    known = [value for each in series for value in each.values if value is not None]
    return Chart(
        key=heading.key,
        title=heading.title,
        summary=heading.summary,
        figure={"data": list(traces), "layout": layout},
        header=[x_title, *(each.name for each in series)],
        rows=[
            [_text(place), *(number(each.values[index], y.digits) for each in series)]
            for index, place in enumerate(x[:MOST_ROWS])
        ],
        is_empty=not known,
        is_tall=is_tall,
    )


def _around(times: Sequence[date]) -> tuple[date, date]:
    """Return the ends of an axis that has all of these times or days, in order, and a margin for the first and last.

    Plotly would leave out those without a value. An axis of one minute would have that minute at each tick.
    """
    first, last = (
        each if isinstance(each, datetime) else datetime.combine(each, time()) for each in (times[0], times[-1])
    )
    shortest = SHORTEST_TIME if isinstance(times[0], datetime) else timedelta(days=1)
    margin = max((shortest - (last - first)) / 2, (last - first) / 40)
    return first - margin, last + margin


def _logarithmic_ticks(values: Sequence[float | None]) -> list[float]:
    """Return the ticks of a logarithmic axis: 1, 2, 5, 10 and so on, or the powers of ten alone if there are many.

    Plotly would write 2 and 5 for 20 and 500, or every multiple of 10, one over the other.
    """
    known = [log10(each) for each in values if each is not None and each > 0]
    low, high = (floor(min(known)), ceil(max(known))) if known else (0, 0)
    leading = (1, 2, 5) if high - low <= MOST_DIVIDED_DECADES else (1,)
    return [digit * 10.0**power for power in range(low, high + 1) for digit in leading]


def _bound(bound: Bound, *, is_flat: bool = False) -> Mapping[str, object]:
    """Return a line across the chart: horizontal, or vertical if the values are on the horizontal axis.

    Its text is beside the end of the line where bars and curves leave most room, and inside the chart.
    """
    along, across = ("y", "x") if is_flat else ("x", "y")
    place = {"textposition": "start", "yanchor": "bottom"} if is_flat else {"textposition": "end", "yanchor": "bottom"}
    return {
        "type": "line",
        f"{along}ref": "paper",
        f"{along}0": 0,
        f"{along}1": 1,
        f"{across}ref": across,
        f"{across}0": bound.value,
        f"{across}1": bound.value,
        "line": {"color": bound.color, "width": 1, "dash": "dash"},
        "label": {"text": bound.text, "xanchor": "right", "textangle": 0, "font": {"size": 11}, **place},
    }


def _place(x: X) -> str | float:
    """Return a place on the x axis. A time is in UTC; the script moves it to the time zone of the browser.

    A time without a zone is a place between days.
    """
    if isinstance(x, datetime) and x.tzinfo is not None:
        return x.astimezone(UTC).isoformat()
    return x.isoformat() if isinstance(x, date) else x


def _text(x: X) -> str:
    if isinstance(x, datetime):
        in_utc = x.astimezone(UTC)
        return f"{day(in_utc)}, {in_utc:%H:%M} UTC"
    if isinstance(x, date):
        return day(x)
    return x if isinstance(x, str) else NOTHING if x is None else f"{x:.4g}"
