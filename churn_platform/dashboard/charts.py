"""Charts: what Plotly draws in the browser, together with the same as a sentence and as a table, for everybody who
does not see it. Pure.

Colors are roles ("main", "good", "bad", "muted"), which the page's script replaces by those of the light or dark theme.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Literal

from churn_platform.dashboard.formats import NOTHING, number

Color = Literal["main", "second", "third", "good", "bad", "muted"]
X = date | datetime | float | str
MOST_ROWS: Final = 400
"""Rows of the table of a chart. Longer ones are cut: the file of the page has all."""


@dataclass(frozen=True)
class Series:
    """Values of one line or set of bars, in the order of the chart's x. None leaves a gap."""

    name: str
    values: Sequence[float | None]
    color: Color = "main"
    is_dashed: bool = False


@dataclass(frozen=True)
class Note:
    """Something that happened at a point of the x axis."""

    x: X
    text: str


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
    """

    key: str
    title: str
    summary: str
    figure: Mapping[str, object]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_empty: bool = False

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
    x_range: tuple[float, float] | None = None,
) -> Chart:
    """Return a chart of lines over time or another quantity.

    Args:
        heading: of the chart.
        x: of each point; times have a time zone.
        series: the lines.
        x_title: what x is.
        y: the vertical axis.
        notes: vertical lines with a text.
        x_range: of the x axis if it is fixed.
    """
    places = [_place(each) for each in x]
    traces: list[Mapping[str, object]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(x) < 2 else "lines",
            "name": each.name,
            "x": places,
            "y": list(each.values),
            "line": {"color": each.color, "width": 2, "dash": "dot" if each.is_dashed else "solid"},
            "marker": {"color": each.color},
        }
        for each in series
    ]
    shapes = [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": _place(note.x),
            "x1": _place(note.x),
            "y0": 0,
            "y1": 1,
            "line": {"color": "muted", "width": 1, "dash": "dash"},
            "label": {"text": note.text, "textposition": "end", "font": {"size": 11}},
        }
        for note in notes
    ]
    return _chart(heading, traces, x_title=x_title, x=x, series=series, y=y, shapes=shapes, x_range=x_range)


def bar_chart(
    heading: Heading, names: Sequence[str], series: Sequence[Series], *, x_title: str, y: Axis, is_flat: bool = False
) -> Chart:
    """Return a chart of bars.

    Args:
        heading: of the chart.
        names: of the bars.
        series: one set of bars each.
        x_title: what the names are.
        y: the axis of the values.
        is_flat: whether the bars are horizontal, for long names. The first is on top.
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
    return _chart(heading, traces, x_title=x_title, x=names, series=series, y=y, is_flat=is_flat)


@dataclass(frozen=True)
class Estimate:
    """An estimate with its interval. None: not known."""

    name: str
    value: float | None
    low: float | None
    high: float | None


def interval_chart(heading: Heading, estimates: Sequence[Estimate], *, x_title: str, y: Axis) -> Chart:
    """Return a chart of estimates with their intervals, one below the other, and a line at 0.

    Args:
        heading: of the chart.
        estimates: the first is on top. Those that are not known are in the table only.
        x_title: what the names are.
        y: the axis of the values.
    """
    known = [
        (each.name, each.value, each.low, each.high)
        for each in estimates
        if each.value is not None and each.low is not None and each.high is not None
    ]
    trace: Mapping[str, object] = {
        "type": "scatter",
        "mode": "markers",
        "y": [name for name, *_ in known],
        "x": [value for _, value, *_ in known],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - value for _, value, _, high in known],
            "arrayminus": [value - low for _, value, low, _ in known],
            "color": "main",
            "thickness": 2,
        },
        "marker": {"color": "main", "size": 10},
    }
    zero = {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "line": {"color": "muted", "width": 1, "dash": "dash"},
    }
    columns = [
        Series("Estimate", [each.value for each in estimates]),
        Series("95 % interval from", [each.low for each in estimates]),
        Series("to", [each.high for each in estimates]),
    ]
    names = [each.name for each in estimates]
    return _chart(heading, [trace], x_title=x_title, x=names, series=columns, y=y, is_flat=True, shapes=[zero])


def waterfall_chart(
    heading: Heading, names: Sequence[str], changes: Sequence[float], *, start: float, x_title: str, y: Axis
) -> Chart:
    """Return a chart of how a value comes about: a start, the changes one after the other, and their sum.

    Args:
        heading: of the chart.
        names: of the changes.
        changes: in the unit of y.
        start: the value before the first change.
        x_title: what the names are.
        y: the axis of the value.
    """
    total = start + sum(changes)
    trace: Mapping[str, object] = {
        "type": "waterfall",
        "orientation": "h",
        "measure": ["absolute", *["relative"] * len(changes), "total"],
        "y": ["Average customer", *names, "This customer"],
        "x": [start, *changes, total],
        "increasing": {"marker": {"color": "bad"}},
        "decreasing": {"marker": {"color": "good"}},
        "totals": {"marker": {"color": "muted"}},
        "connector": {"line": {"color": "muted", "width": 1}},
    }
    values = Series(y.title, [start, *changes, total])
    every = ["Average customer", *names, "This customer"]
    return _chart(heading, [trace], x_title=x_title, x=every, series=[values], y=y, is_flat=True)


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
    x_range: tuple[float, float] | None = None,
) -> Chart:
    values: dict[str, object] = {"title": {"text": y.title}, "tickformat": y.ticks}
    if y.range is not None:
        values["range"] = list(y.range)
    names: dict[str, object] = {"title": {"text": "" if is_flat else x_title}, "automargin": True}
    if is_flat:
        names["autorange"] = "reversed"
    if x_range is not None:
        names["range"] = list(x_range)
    if x and isinstance(x[0], datetime):
        names["type"] = "date"
    elif x and isinstance(x[0], str):
        names["type"] = "category"  # else a name such as 2026-07 would become a date
    layout = {
        "xaxis": values if is_flat else names,
        "yaxis": names if is_flat else values,
        "showlegend": len(traces) > 1,
        "hovermode": "closest" if is_flat or traces[0]["type"] != "scatter" else "x unified",
        "shapes": list(shapes),
    }
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
    )


def _place(x: X) -> str | float:
    """Return a place on the x axis. A time is in UTC; the script moves it to the time zone of the browser."""
    if isinstance(x, datetime):
        return x.astimezone(UTC).isoformat()
    return x.isoformat() if isinstance(x, date) else x


def _text(x: X) -> str:
    if isinstance(x, datetime):
        return x.astimezone(UTC).strftime("%d %b %Y, %H:%M UTC")
    if isinstance(x, date):
        return f"{x.day} {x:%b %Y}"
    return x if isinstance(x, str) else NOTHING if x is None else f"{x:.4g}"
