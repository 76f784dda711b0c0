"""The page about segments: which customers are predicted to leave, whether that has changed, and what is at stake."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import combinations
from typing import Final

import psycopg
from starlette.responses import Response

from churn_platform.dashboard import addresses
from churn_platform.dashboard.charts import Axis, Chart, Heading, Series, bar_chart
from churn_platform.dashboard.exports import Kind, download
from churn_platform.dashboard.formats import NOTHING, money, number, percent
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.segments import FEW, in_order, segment_name, value_in_text, value_name
from churn_platform.database import summary_state
from churn_platform.database.pages import segments as reading
from churn_platform.database.pages.segments import Group
from churn_platform.files.spreadsheets import Cell as FileCell
from churn_platform.retention.effect import Interval, newcombe_interval, wilson_interval
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema

REFRESH_SECONDS: Final = 30
WEEK: Final = timedelta(days=7)
SHADES: Final = 5
MOST_PAIRED: Final = 4
"""Of so many segments, the first ones, each pair has a link."""
MOST_BARS: Final = 15
"""Groups in the chart when two segments are crossed; the table has all."""


@dataclass(frozen=True)
class Measure:
    """What the crossed table and the chart show of a group.

    Attributes:
        key: in the address.
        name: for people.
        value: of a group; shares are 0..1.
        last: the same of the week before; None if it is not known.
        text: writes a value.
        is_share: whether it is a share, which is unreliable in small groups.
    """

    key: str
    name: str
    value: Callable[[Group], float | None]
    last: Callable[[Group], float | None] | None
    text: Callable[[float | None], str]
    is_share: bool


@dataclass(frozen=True)
class Row:
    """A group in the table.

    Attributes:
        name: as it can stand alone.
        keys: values of its segments, as tables have them.
        values: the same, as people read them.
        group: its sums.
        is_hidden: whether the user must not see its figures, because they would show single customers.
        change: churn rate of this week minus that of the week before, with its 95 % interval; None if a week has too
            few predictions.
        trend: address of the page with their trend; empty if there is none.
        at_risk: address of the list of their high-risk customers; empty if there is none.
    """

    name: str
    keys: Sequence[str | None]
    values: Sequence[str]
    group: Group
    is_hidden: bool
    change: Interval | None
    trend: str
    at_risk: str

    @property
    def is_small(self) -> bool:
        """Whether its rate says little."""
        return self.group.predictions < FEW

    @property
    def marker(self) -> str:
        """Whether the churn rate has changed by more than chance explains: "higher", "lower" or nothing."""
        if self.change is None:
            return ""
        return "higher" if self.change.low > 0 else "lower" if self.change.high < 0 else ""

    @property
    def verdict(self) -> str:
        """Whether more than chance explains the change, for people; or why nothing is compared."""
        if self.change is not None:
            return self.marker or "no"
        return "few predictions"


@dataclass(frozen=True)
class Cell:
    """A cell of the crossed table. `shade` is 0 (lowest value) to SHADES (highest); None if it is not compared."""

    text: str
    note: str
    shade: int | None


@dataclass(frozen=True)
class Crossed:
    """The crossed table: the second segment's values above, and a row for each value of the first one."""

    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    lowest: str
    highest: str


@dataclass(frozen=True)
class _Choice:
    """What the filters have chosen: one or two segments and a measure; no segment if the schema has none."""

    columns: Sequence[Column]
    measure: Measure
    measures: Sequence[Measure]


def read(visit: Visit, connection: psycopg.Connection) -> View:
    """Return the segments of the customers."""
    choice = _chosen(visit)
    total = _rows(visit, connection, [])[0]
    rows = _rows(visit, connection, choice.columns) if choice.columns else []
    columns, segments = choice.columns, visit.schema.segments
    return View(
        "segments.html.j2",
        "Segments",
        {
            "total": total,
            "rows": rows,
            "worst": _worst(rows, total),
            "has_segments": bool(segments),
            "has_data": any(row.group.predictions or row.group.last_predictions or row.group.customers for row in rows),
            "has_money": visit.schema.money_at_risk is not None,
            "columns": [segment_name(column) for column in columns],
            "segment_choices": [(column.column, segment_name(column)) for column in segments],
            "cross_choices": [
                ("", "nothing"),
                *((column.column, segment_name(column)) for column in segments if column not in columns[:1]),
            ],
            "pairs": [
                (
                    f"{segment_name(first)} and {segment_name(second).lower()}",
                    addresses.segments(first.column, second.column),
                )
                for first, second in combinations(segments[:MOST_PAIRED], 2)
            ],
            "measure_choices": [(each.key, each.name) for each in choice.measures],
            "chosen": [*(column.column for column in columns), *[""] * (2 - len(columns))],
            "measure": choice.measure,
            "crossed": _crossed(columns, rows, choice.measure) if len(columns) == 2 else None,
            "chart": _chart(columns, rows, choice.measure) if columns else None,
            "week": _week(visit.now),
            "as_of": summary_state.as_of(connection),
            "summaries": summary_state.get(connection),
            "hides_controls": visit.hides_controls,
            "few": FEW,
            "shades": range(SHADES + 1),
            "files": {kind: visit.address(f"{addresses.SEGMENTS}.{kind}") for kind in ("csv", "xlsx")},
        },
        refresh=REFRESH_SECONDS,
    )


def read_csv(visit: Visit, _: psycopg.Connection) -> Response:
    """Return the groups that the page shows as CSV."""
    return _file(visit, "csv")


def read_workbook(visit: Visit, _: psycopg.Connection) -> Response:
    """Return the groups that the page shows as an Excel workbook."""
    return _file(visit, "xlsx")


def _file(visit: Visit, kind: Kind) -> Response:
    columns = _chosen(visit).columns
    header = [
        *((column.column, segment_name(column)) for column in columns),
        ("predictions", "Predictions this week"),
        ("churn_count", "Predictions of churn this week"),
        ("churn_rate_percent", "Churn rate this week (%)"),
        ("mean_risk_score", "Mean risk score this week"),
        ("predictions_week_before", "Predictions the week before"),
        ("churn_count_week_before", "Predictions of churn the week before"),
        ("churn_rate_percent_week_before", "Churn rate the week before (%)"),
        ("change_points", "Change (points)"),
        ("change_low_points", "Change, 95 % interval from (points)"),
        ("change_high_points", "Change, 95 % interval to (points)"),
        ("customers", "Customers"),
        ("high_risk_customers", "High-risk customers"),
        ("money_at_risk", f"Money at risk ({visit.schema.currency})" if visit.schema.currency else "Money at risk"),
    ]

    def rows(connection: psycopg.Connection) -> list[Sequence[FileCell]]:
        found = _rows(visit, connection, columns) if columns else []
        return [_cells(row, row.values if kind == "xlsx" else row.keys) for row in found if not row.is_hidden]

    return download(visit, "segments", kind, header, rows)


def _cells(row: Row, values: Sequence[str | None]) -> list[FileCell]:
    group, change = row.group, row.change
    points = (change.value, change.low, change.high) if change is not None else (None, None, None)
    return [
        *values,
        *(group.predictions, group.churn_count, _in_percent(group.churn_rate), group.mean_risk),
        *(group.last_predictions, group.last_churn_count, _in_percent(group.last_churn_rate)),
        *(_in_percent(each) for each in points),
        *(group.customers, group.high_risk_customers, group.money_at_risk),
    ]


def _in_percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


# What was chosen


def _chosen(visit: Visit) -> _Choice:
    segments = {column.column: column for column in visit.schema.segments}
    measures = _measures(visit.schema)
    key = visit.choice("show", [each.key for each in measures], measures[0].key)
    measure = next(each for each in measures if each.key == key)
    if not segments:
        return _Choice([], measure, measures)
    first = visit.choice("by", [*segments], next(iter(segments)))
    second = visit.choice("and", [name for name in segments if name != first], "")
    return _Choice([segments[name] for name in (first, second) if name], measure, measures)


def _measures(schema: CustomerSchema) -> list[Measure]:
    def amount(value: float | None) -> str:
        return money(value, schema.currency)

    found = [
        Measure("churn", "Churn rate", lambda g: g.churn_rate, lambda g: g.last_churn_rate, percent, is_share=True),
        Measure("risk", "Mean risk", lambda g: g.mean_risk, lambda g: g.last_mean_risk, percent, is_share=True),
        Measure("high-risk", "High-risk customers", lambda g: g.high_risk_customers, None, number, is_share=False),
    ]
    if schema.money_at_risk is not None:
        found.append(Measure("money", "Money at risk", lambda g: g.money_at_risk, None, amount, is_share=False))
    return found


def _week(now: datetime) -> tuple[date, date, date]:
    """Return the first day of the week before, the first day of this week, and today, in UTC."""
    return now.date() - 2 * WEEK, now.date() - WEEK, now.date()


# The groups


def _rows(visit: Visit, connection: psycopg.Connection, columns: Sequence[Column]) -> list[Row]:
    """Return the groups by these segments, in the order of the schema; without segments, one of everybody."""
    last_week, this_week, today = _week(visit.now)
    names = [column.column for column in columns]
    groups = reading.groups(
        connection,
        names,
        last_week=last_week,
        this_week=this_week,
        today=today,
        without_controls=visit.hides_controls,
    )
    if not columns:
        return [_row([], groups[0] if groups else _nothing(), hides_few=False)]
    places = [
        {value: place for place, value in enumerate(in_order(column, {_key(group)[index] for group in groups}))}
        for index, column in enumerate(columns)
    ]
    groups.sort(key=lambda group: [place[value] for place, value in zip(places, _key(group), strict=False)])
    return [_row(columns, group, hides_few=visit.hides_controls) for group in groups]


def _row(columns: Sequence[Column], group: Group, *, hides_few: bool) -> Row:
    pairs = [*zip(columns, _key(group), strict=False)]
    known = {column.column: value for column, value in pairs if value is not None}
    enough = min(group.predictions, group.last_predictions) >= FEW
    counts = (group.customers, group.predictions, group.last_predictions)
    is_hidden = hides_few and any(0 < count < FEW for count in counts)
    is_linked = bool(columns) and len(known) == len(columns) and not is_hidden
    return Row(
        name=", ".join(value_in_text(column, value) for column, value in pairs) or "All customers",
        keys=[value for _, value in pairs],
        values=[value_name(column, value) for column, value in pairs],
        group=group,
        is_hidden=is_hidden,
        change=newcombe_interval(group.churn_count, group.predictions, group.last_churn_count, group.last_predictions)
        if enough
        else None,
        trend=addresses.trends(*next(iter(known.items()))) if is_linked and len(columns) == 1 else "",
        at_risk=addresses.customers(segments=known, band="high") if is_linked else "",
    )


def _key(group: Group) -> tuple[str | None, str | None]:
    return group.first, group.second


def _nothing() -> Group:
    return Group(
        predictions=0,
        churn_count=0,
        risk_sum=0.0,
        last_predictions=0,
        last_churn_count=0,
        last_risk_sum=0.0,
        customers=0,
        high_risk_customers=0,
        money_at_risk=0.0,
    )


def _comparable(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row.is_small and not row.is_hidden]


def _worst(rows: Sequence[Row], total: Row) -> str:
    """Return a sentence about the group with the highest churn rate; empty if there is nothing to compare."""
    average = total.group.churn_rate
    found = [(rate, row) for row in _comparable(rows) if (rate := row.group.churn_rate) is not None]
    if average is None or len(found) < 2:
        return ""
    rate, row = max(found, key=lambda pair: pair[0])
    if not average or wilson_interval(row.group.churn_count, row.group.predictions)[0] <= average:
        return f"No group is clearly above the average of {percent(average, 0)} predicted to leave."
    times = f"{rate / average:.1f}".removesuffix(".0")
    return f"{row.name}: {percent(rate, 0)} predicted to leave, {times} times the average of {percent(average, 0)}."


# The crossed table and the chart


def _crossed(columns: Sequence[Column], rows: Sequence[Row], measure: Measure) -> Crossed:
    first, second = columns
    by_key = {_key(row.group): row for row in rows}
    above = in_order(second, {row.group.second for row in rows})
    shown = [each for row in rows if _is_shaded(row, measure) and (each := measure.value(row.group)) is not None]
    low, high = (min(shown), max(shown)) if shown else (None, None)

    def cell(row: Row | None) -> Cell:
        if row is None:
            return Cell(NOTHING, "no customers", None)
        if row.is_hidden:
            return Cell(NOTHING, "few customers", None)
        value = measure.value(row.group)
        shade = _shade(value, low, high) if _is_shaded(row, measure) else None
        count = row.group.predictions if measure.is_share else row.group.customers
        return Cell(measure.text(value), f"of {number(count)}", shade)

    return Crossed(
        header=[value_name(second, value) for value in above],
        rows=[
            (value_name(first, value), [cell(by_key.get((value, other))) for other in above])
            for value in in_order(first, {row.group.first for row in rows})
        ],
        lowest=measure.text(low),
        highest=measure.text(high),
    )


def _is_shaded(row: Row, measure: Measure) -> bool:
    return not row.is_hidden and not (measure.is_share and row.is_small)


def _shade(value: float | None, low: float | None, high: float | None) -> int | None:
    if value is None or low is None or high is None:
        return None
    if high <= low:
        return 0
    return round(SHADES * (value - low) / (high - low))


def _chart(columns: Sequence[Column], rows: Sequence[Row], measure: Measure) -> Chart:
    shown = [row for row in rows if _is_shaded(row, measure)]
    left_out = len(rows) - len(shown)
    if len(columns) == 2:
        shown = sorted(shown, key=lambda row: measure.value(row.group) or 0.0, reverse=True)
    cut = len(shown) - MOST_BARS if len(columns) == 2 else 0
    shown = shown[:MOST_BARS] if len(columns) == 2 else shown
    factor = 100.0 if measure.is_share else 1.0

    def of(value: Callable[[Group], float | None]) -> list[float | None]:
        return [None if (found := value(row.group)) is None else factor * found for row in shown]

    series = [Series("This week" if measure.last is not None else measure.name, of(measure.value))]
    if measure.last is not None:
        series.append(Series("The week before", of(measure.last), "muted"))
    highest = max(shown, key=lambda row: measure.value(row.group) or 0.0, default=None)
    notes = [
        "" if highest is None else f"Highest: {highest.name}, {measure.text(measure.value(highest.group))}.",
        f"The {MOST_BARS} highest of {len(shown) + cut} groups." if cut > 0 else "",
        f"Left out: {left_out} small {'group' if left_out == 1 else 'groups'}." if left_out else "",
    ]
    return bar_chart(
        Heading(
            "groups",
            f"{measure.name} by {' and '.join(segment_name(column) for column in columns)}",
            " ".join(filter(None, notes)),
        ),
        [row.name if len(columns) == 2 else row.values[0] for row in shown],
        series,
        x_title=" and ".join(segment_name(column) for column in columns),
        y=Axis(f"{measure.name}{', %' if measure.is_share else ''}", digits=1 if measure.is_share else 0),
        is_flat=len(columns) == 2,
    )


PAGES: Final[Sequence[Page]] = (
    Page(addresses.SEGMENTS, read, label="Segments"),
    Page(f"{addresses.SEGMENTS}.csv", read_csv),
    Page(f"{addresses.SEGMENTS}.xlsx", read_workbook),
)
