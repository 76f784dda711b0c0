"""The page about trends: predictions and churn rate by day or hour, and what happened meanwhile."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from typing import Final

import psycopg
from starlette.responses import Response

from churn_platform.dashboard.addresses import TRENDS
from churn_platform.dashboard.charts import Axis, Chart, Heading, Note, Series, line_chart
from churn_platform.dashboard.customer_values import column_label
from churn_platform.dashboard.exports import Kind, download
from churn_platform.dashboard.formats import day, duration, label, number, percent, points
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.segments import FEW, in_order, segment_name, value_in_text, value_name
from churn_platform.database import summary_state
from churn_platform.database.pages import segments as segment_reading
from churn_platform.database.pages import trends as reading
from churn_platform.database.pages.trends import Drift, Sums
from churn_platform.files.spreadsheets import Cell
from churn_platform.retention.effect import Interval, newcombe_interval
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema

REFRESH_SECONDS: Final = 30
OUTAGES: Final = ("stream-stalled", "stream-lag", "kafka-unreachable", "daemon-silent")
"""Operator conditions during which predictions are late or missing."""
PROMOTED_BY: Final[Mapping[str, str]] = {
    "training": "after its training",
    "hand": "by hand",
    "alias": "in MLflow",
    "rollback": "by a rollback",
}
MOST_EVENTS: Final = 100
"""Entries of the list of what happened, the latest ones."""
DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Range:
    """A range of time that the page can show.

    Attributes:
        key: in the address.
        name: for people.
        count: of days or hours, the present one included.
        step: one day or one hour.
        window: number of steps of the moving average.
    """

    key: str
    name: str
    count: int
    step: timedelta
    window: int

    @property
    def is_hourly(self) -> bool:
        """Whether a step is an hour."""
        return self.step == HOUR

    @property
    def unit(self) -> str:
        """Name of a step."""
        return "hour" if self.is_hourly else "day"

    @property
    def average(self) -> str:
        """Name of the moving average."""
        return f"{self.window}-{self.unit} average"


RANGES: Final = (
    Range("7", "7 days", 7, DAY, 7),
    Range("30", "30 days", 30, DAY, 7),
    Range("90", "90 days", 90, DAY, 7),
    Range("48h", "48 hours", 48, HOUR, 24),
)
DEFAULT_RANGE: Final = "30"


@dataclass(frozen=True)
class Step:
    """One day or hour.

    Attributes:
        sums: over its predictions.
        average: share of churn among all predictions of the window that ends with it, 0..1; None if there are none.
        change: churn rate minus that of the step before, in shares; None if one of them has no predictions.
    """

    sums: Sums
    average: float | None
    change: float | None

    @property
    def is_small(self) -> bool:
        """Whether its churn rate says little."""
        return 0 < self.sums.predictions < FEW


@dataclass(frozen=True)
class Event:
    """Something that happened and may explain a change.

    Attributes:
        kind: for people.
        start: the UTC day or the moment of the events concerned; the chart has a line there.
        end: the last such day or moment; None if it is one, or if it lasts.
        mark: a few characters for the chart.
        text: a sentence.
        path: page of the dashboard or of Dagster that has the details; empty if there is none.
    """

    kind: str
    start: date
    end: date | None
    mark: str
    text: str
    path: str = ""


@dataclass(frozen=True)
class Customers:
    """The customers that are shown: all, or those with a value in a segment."""

    column: Column | None = None
    value: str | None = None

    @property
    def key(self) -> str:
        """The choice in the address; empty for all customers."""
        return "" if self.column is None else f"{self.column.column}:{self.value}"

    @property
    def name(self) -> str:
        """For people."""
        return "all customers" if self.column is None else value_in_text(self.column, self.value)


@dataclass(frozen=True)
class Choices:
    """The values of one segment that the filter offers: pairs of key and name."""

    name: str
    values: Sequence[tuple[str, str]]


def read(visit: Visit, connection: psycopg.Connection) -> View:
    """Return how the predictions developed."""
    chosen = _range(visit)
    known = segment_reading.values(connection, without_controls=visit.hides_controls)
    customers, notice = _customers(visit, chosen, {(each.segment, each.value): each.customers for each in known})
    every = _steps(connection, chosen, customers, visit)
    steps = every[-chosen.count :]
    change = _change(every[-chosen.window :], every[-2 * chosen.window : -chosen.window])
    events = _events(connection, chosen, visit)
    notes = _notes(chosen, steps, events)
    lines = [replace(note, text="") for note in notes]  # the first chart says what they are
    total = sum(step.sums.predictions for step in steps)
    churned = sum(step.sums.churn_count for step in steps)
    return View(
        "trends.html.j2",
        "Trends",
        {
            "range": chosen,
            "range_choices": [(each.key, each.name) for each in _ranges(visit)],
            "hides_controls": visit.hides_controls,
            "customers": customers,
            "customer_choices": [] if chosen.is_hourly else _choices(visit.schema, known),
            "notice": notice,
            "total": total,
            "churn_rate": churned / total if total else None,
            "high_risk": sum(step.sums.high_risk_count for step in steps),
            "average": steps[-1].average,
            "change": change,
            "steps": [step for step in reversed(steps) if step.sums.predictions],
            "events": [(each, isinstance(each.start, datetime)) for each in reversed(events[-MOST_EVENTS:])],
            "event_count": len(events),
            "most_events": MOST_EVENTS,
            "rate_chart": _rate_chart(chosen, steps, customers, notes, change),
            "count_chart": _count_chart(chosen, steps, customers, lines),
            "high_risk_chart": _high_risk_chart(chosen, steps, customers, lines),
            "as_of": summary_state.as_of(connection),
            "summaries": summary_state.get(connection),
            "few": FEW,
            "files": {kind: visit.address(f"{TRENDS}.{kind}") for kind in ("csv", "xlsx")},
        },
        refresh=REFRESH_SECONDS,
    )


def read_csv(visit: Visit, connection: psycopg.Connection) -> Response:
    """Return what the page shows as CSV."""
    return _file(visit, connection, "csv")


def read_workbook(visit: Visit, connection: psycopg.Connection) -> Response:
    """Return what the page shows as an Excel workbook."""
    return _file(visit, connection, "xlsx")


def _file(visit: Visit, connection: psycopg.Connection, kind: Kind) -> Response:
    chosen = _range(visit)
    values = segment_reading.values(connection, without_controls=visit.hides_controls)
    known = {(each.segment, each.value): each.customers for each in values}
    customers, _ = _customers(visit, chosen, known)
    step = ("hour_utc", "Hour (UTC)") if chosen.is_hourly else ("date_utc", "Day (UTC)")
    header = [
        step,
        ("customers", "Customers"),
        ("predictions", "Predictions"),
        ("churn_count", "Predictions of churn"),
        ("churn_rate_percent", "Churn rate (%)"),
        (f"churn_rate_percent_{chosen.window}_{chosen.unit}s", f"{chosen.average.capitalize()} (%)"),
        ("mean_risk_score", "Mean risk score"),
        ("high_risk_count", "High-risk predictions"),
    ]

    def rows(exporting: psycopg.Connection) -> list[Sequence[Cell]]:
        return [
            [
                *(step.sums.start, customers.name, step.sums.predictions, step.sums.churn_count),
                *(_in_percent(step.sums.churn_rate), _in_percent(step.average)),
                *(step.sums.mean_risk, step.sums.high_risk_count),
            ]
            for step in _steps(exporting, chosen, customers, visit)[-chosen.count :]
        ]

    return download(visit, "trends", kind, header, rows)


# What was chosen


def _ranges(visit: Visit) -> list[Range]:
    """Return the ranges that the user may see. The sums of hours include the control group."""
    return [each for each in RANGES if not (each.is_hourly and visit.hides_controls)]


def _range(visit: Visit) -> Range:
    ranges = _ranges(visit)
    key = visit.choice("range", [each.key for each in ranges], DEFAULT_RANGE)
    return next(each for each in ranges if each.key == key)


def _customers(visit: Visit, chosen: Range, known: Mapping[tuple[str, str], int]) -> tuple[Customers, str]:
    """Return which customers are shown, and why these are not the ones that the address names, if so."""
    name, _, value = visit.text("customers").partition(":")
    column = next((each for each in visit.schema.segments if each.column == name), None)
    if column is None:
        return Customers(), ""
    asked = Customers(column, value)
    if chosen.is_hourly:
        return Customers(), f"Hours are not divided by segments: these are all customers, not {asked.name} alone."
    if (name, value) not in known:
        return Customers(), f"There are no customers with {asked.name}: these are all customers."
    if visit.hides_controls and known[name, value] < FEW:
        return Customers(), (
            f"{asked.name} has fewer than {FEW} customers. The retention team does not see such groups, because they "
            f"could show the risk of single customers who were in the control group before. These are all customers."
        )
    return asked, ""


def _choices(schema: CustomerSchema, known: Sequence[segment_reading.SegmentValue]) -> list[Choices]:
    found = []
    for column in schema.segments:
        values = in_order(column, {each.value for each in known if each.segment == column.column})
        pairs = [(Customers(column, value).key, value_name(column, value)) for value in values]
        found.append(Choices(segment_name(column), pairs))
    return [each for each in found if each.values]


# Days and hours


def _steps(connection: psycopg.Connection, chosen: Range, customers: Customers, visit: Visit) -> list[Step]:
    """Return every day or hour of the range and of one window before it, also those without predictions, in order."""
    now = visit.now
    wanted = chosen.count + 2 * chosen.window - 1
    if chosen.is_hourly:
        last: date = now.replace(minute=0, second=0, microsecond=0)
        places = [last - ago * HOUR for ago in range(wanted - 1, -1, -1)]
        found: Mapping[date, Sums] = reading.hours(connection, now - wanted * HOUR, now)
    else:
        last = now.date()
        places = [last - ago * DAY for ago in range(wanted - 1, -1, -1)]
        segment = None if customers.column is None else customers.column.column
        found = reading.days(
            connection,
            places[0],
            last,
            segment=segment,
            value=customers.value,
            without_controls=visit.hides_controls,
        )
    every = [found.get(place, Sums(place)) for place in places]
    return [
        Step(
            sums=every[index],
            average=_rate(every[index - chosen.window + 1 : index + 1]),
            change=_difference(every[index].churn_rate, every[index - 1].churn_rate),
        )
        for index in range(chosen.window - 1, wanted)
    ]


def _rate(window: Sequence[Sums]) -> float | None:
    """Return the share of churn among all predictions, so that a step with few predictions has little weight."""
    predictions = sum(each.predictions for each in window)
    return sum(each.churn_count for each in window) / predictions if predictions else None


def _change(this: Sequence[Step], last: Sequence[Step]) -> Interval | None:
    """Return the churn rate of a window minus that of the one before, with its interval; None if one has few."""
    sums = [(sum(each.sums.churn_count for each in w), sum(each.sums.predictions for each in w)) for w in (this, last)]
    (churned, predictions), (last_churned, last_predictions) = sums
    if min(predictions, last_predictions) < FEW:
        return None
    return newcombe_interval(churned, predictions, last_churned, last_predictions)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _in_percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


# What happened


def _events(connection: psycopg.Connection, chosen: Range, visit: Visit) -> list[Event]:
    """Return what happened in the range, in order."""
    end = visit.now + DAY
    start = (
        visit.now.replace(minute=0, second=0, microsecond=0) - (chosen.count - 1) * HOUR
        if chosen.is_hourly
        else datetime.combine(visit.now.date() - (chosen.count - 1) * DAY, time(), UTC)
    )
    dagster = visit.config.dagster_url
    found = [
        Event(
            "New champion",
            each.promoted_at,
            None,
            f"model {each.version}",
            f"Model version {each.version} became champion {PROMOTED_BY[each.promoted_by]}: {each.reason}",
            f"/model?version={each.version}",
        )
        for each in reading.promotions(connection, start, end)
    ]
    found += [
        Event(
            "Replay",
            each.first_hour,
            each.last_hour + HOUR,
            "replay",
            f"The predictions of {number(each.batches)} {'batch' if each.batches == 1 else 'batches'} were replaced on "
            f"{day(each.replayed_at.astimezone(UTC).date())}"
            f"{'' if each.model_version is None else f' by those of model version {each.model_version}'}.",
            f"{dagster}/assets/churn_predictions" if dagster else "",
        )
        for each in reading.replays(connection, start, end)
    ]
    found += _drift_events(visit.schema, reading.drift(connection, start.date(), visit.now.date()))
    found += [
        Event(
            "Outage",
            each.began,
            None,
            "outage",
            f"{label(each.name.replace('-', ' '))}{f' ({each.subject})' if each.subject else ''}: {each.details}"
            f"{' It has not ended.' if each.ended is None else f' It lasted {_lasted(each.began, each.ended)}.'}",
        )
        for each in reading.problems(connection, OUTAGES, start, end)
    ]
    return sorted(found, key=lambda each: (_day(each.start), isinstance(each.start, datetime), each.start))


def _lasted(began: datetime, ended: datetime) -> str:
    return duration((ended - began).total_seconds())


def _drift_events(schema: CustomerSchema, found: Sequence[Drift]) -> list[Event]:
    """Return one event for consecutive days on which features of a model version were far from its training data."""

    def run(pair: tuple[int, Drift]) -> tuple[int, date]:
        index, each = pair
        return each.model_version, each.date - index * DAY

    events = []
    for (version, _), pairs in groupby(enumerate(found), run):
        days = [each for _, each in pairs]
        features = dict.fromkeys(feature for each in days for feature in each.features)
        names = ", ".join(column_label(schema, name) for name in features)
        events.append(
            Event(
                "Drift",
                days[0].date,
                days[-1].date if len(days) > 1 else None,
                "drift",
                f"Far from the training data of model version {version}: {names}.",
                f"/model?version={version}",
            )
        )
    return events


def _notes(chosen: Range, steps: Sequence[Step], events: Sequence[Event]) -> list[Note]:
    """Return the lines of the charts: one for each place, whatever happened there."""
    first = steps[0].sums.start
    marks: dict[date, list[str]] = {}
    for event in events:
        place: date = (
            _moment(event.start).replace(minute=0, second=0, microsecond=0) if chosen.is_hourly else _day(event.start)
        )
        if place >= first:
            marks.setdefault(place, []).append(event.mark)
    return [Note(place, _joined(found)) for place, found in marks.items()]


def _joined(marks: Sequence[str]) -> str:
    counts = {mark: marks.count(mark) for mark in marks}
    return ", ".join(mark if count == 1 else f"{count} {mark}s" for mark, count in counts.items())


def _day(place: date) -> date:
    """Return the UTC day of a day or a moment."""
    return place.astimezone(UTC).date() if isinstance(place, datetime) else place


def _moment(place: date) -> datetime:
    """Return a moment, or the begin of a UTC day."""
    return place.astimezone(UTC) if isinstance(place, datetime) else datetime.combine(place, time(), UTC)


# Charts


def _rate_chart(
    chosen: Range, steps: Sequence[Step], customers: Customers, notes: Sequence[Note], change: Interval | None
) -> Chart:
    last = steps[-1].average
    summary = (
        f"No predictions in the last {chosen.window} {chosen.unit}s."
        if last is None
        else f"The {chosen.average} is {percent(last)}"
        + (f", {points(change.value)} against {chosen.window} {chosen.unit}s before." if change is not None else ".")
    )
    return line_chart(
        Heading("rate", f"Churn rate, {customers.name}", summary),
        [step.sums.start for step in steps],
        [
            Series(f"By {chosen.unit}", _values(steps, lambda step: _in_percent(step.sums.churn_rate)), "muted"),
            Series(chosen.average.capitalize(), _values(steps, lambda step: _in_percent(step.average))),
        ],
        x_title=chosen.unit.capitalize(),
        y=Axis("% predicted to leave", digits=1),
        notes=notes,
    )


def _count_chart(chosen: Range, steps: Sequence[Step], customers: Customers, notes: Sequence[Note]) -> Chart:
    values = [float(step.sums.predictions) for step in steps]
    summary = (
        f"{number(sum(values))} in {chosen.name}; at most {number(max(values))} in one {chosen.unit}. "
        f"The last {chosen.unit} is not over."
    )
    return line_chart(
        Heading("predictions", f"Predictions, {customers.name}", summary),
        [step.sums.start for step in steps],
        [Series("Predictions", values)],
        x_title=chosen.unit.capitalize(),
        y=Axis("predictions", range=None if any(values) else (0, 1)),
        notes=notes,
    )


def _high_risk_chart(chosen: Range, steps: Sequence[Step], customers: Customers, notes: Sequence[Note]) -> Chart:
    values = [float(step.sums.high_risk_count) for step in steps]
    total = sum(step.sums.predictions for step in steps)
    share = f", {percent(sum(values) / total)} of all" if total else ""
    return line_chart(
        Heading(
            "high-risk", f"High-risk predictions, {customers.name}", f"{number(sum(values))} in {chosen.name}{share}."
        ),
        [step.sums.start for step in steps],
        [Series("High-risk predictions", values, "bad")],
        x_title=chosen.unit.capitalize(),
        y=Axis("predictions", range=None if any(values) else (0, 1)),
        notes=notes,
    )


def _values(steps: Sequence[Step], value: Callable[[Step], float | None]) -> list[float | None]:
    return [value(step) for step in steps]


PAGES: Final[Sequence[Page]] = (
    Page(TRENDS, read, label="Trends"),
    Page(f"{TRENDS}.csv", read_csv),
    Page(f"{TRENDS}.xlsx", read_workbook),
)
