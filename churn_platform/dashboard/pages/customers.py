"""The list of customers: filters, order and files. Whoever calls customers sees none of the control group."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from starlette.responses import Response

from churn_platform.dashboard import addresses
from churn_platform.dashboard.addresses import CUSTOMERS, segment_parameter
from churn_platform.dashboard.customer_values import typed_id
from churn_platform.dashboard.exports import Kind, download
from churn_platform.dashboard.formats import number
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.risk_bands import BANDS, Band, RiskBands, Trend, trend
from churn_platform.dashboard.segments import in_order, segment_name, value_name
from churn_platform.database import summary_state
from churn_platform.database.pages import customer as one_customer
from churn_platform.database.pages import customers as reading
from churn_platform.database.pages.customers import Count, Customer, Filter, Order, Place, Sort
from churn_platform.files.spreadsheets import MOST_SHEET_ROWS, Cell
from churn_platform.retention.reasons import causes, sentences
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema

ROWS: Final = 25
"""Customers on one page."""
MOST_COUNTED: Final = 1_000
"""More customers are only counted if the summaries know their number. With a million customers and twenty readers,
counting 10,000 of a segment and a band took 250 ms."""
EXPORT_SECONDS: Final = 120
"""The number of rows of a workbook is counted first."""
SORTS: Final[Mapping[Sort, str]] = {"risk": "Risk", "money": "Money at risk", "latest": "Latest event"}
DEFAULT_SORT: Final[Sort] = "risk"
SHOWN: Final = "shown"
"""Value of the filter with which customers who left are listed, too. A search finds them in any case."""
_SEPARATOR: Final = "~"
_WHOLE: Final = re.compile("-?[0-9]{1,15}")


@dataclass(frozen=True)
class Row:
    """A customer as the list shows it."""

    customer_id: int | str
    address: str
    risk_score: float
    band: Band
    trend: Trend
    causes: str
    segments: Sequence[str]
    money_at_risk: float | None
    event_timestamp: datetime
    left_at: datetime | None


@dataclass(frozen=True)
class SegmentChoice:
    """A filter by a segment: its parameter and name, the values to choose from, and the chosen one."""

    parameter: str
    text: str
    choices: Sequence[tuple[str, str]]
    chosen: str


@dataclass(frozen=True)
class SortLink:
    """The head of a column that the list can be sorted by: where it leads, and the present order if it is this one."""

    text: str
    address: str
    direction: str


@dataclass(frozen=True)
class _Request:
    """What the address of the list asks for."""

    wanted: Filter
    order: Order
    search: str
    band: str
    is_possible: bool
    """Whether a customer can have the id that is searched for."""


def read(visit: Visit, connection: psycopg.Connection) -> View:
    """Return a part of the list."""
    threshold = reading.high_risk_threshold(connection)
    # Before the first batch there is no customer, whatever the bands are.
    bands = RiskBands(1.0 if threshold is None else threshold)
    request = _request(visit, bands)
    order = request.order
    after, before = _place(visit, "after", order.sort), _place(visit, "before", order.sort)
    found = (
        reading.find(connection, request.wanted, order, limit=ROWS, after=after, before=before)
        if request.is_possible
        else reading.CustomerList([], has_previous=False, has_next=False)
    )
    matches = reading.count(connection, request.wanted, most=MOST_COUNTED) if request.is_possible else Count(0)
    customers = found.customers
    return View(
        "customers.html.j2",
        "Customers",
        {
            "rows": [_row(visit.schema, bands, each) for each in customers],
            "matches": matches,
            "first": None if after is None and before is None else visit.address(CUSTOMERS, after=None, before=None),
            "previous": _address_of(visit, "before", customers[0].place(order.sort))
            if customers and found.has_previous
            else None,
            "next": _address_of(visit, "after", customers[-1].place(order.sort))
            if customers and found.has_next
            else None,
            "sorts": {sort: _sort_link(visit, sort, order) for sort in SORTS},
            "order": order,
            "segments": _segment_choices(visit.schema, reading.segment_values(connection), request.wanted.segments),
            "segment_names": [segment_name(column) for column in visit.schema.segments],
            "bands": bands,
            "band_choices": [("", "All"), *((band, band.capitalize()) for band in BANDS)],
            "band": request.band,
            "left_choices": [("", "Hidden"), (SHOWN, "Shown")],
            "left": SHOWN if visit.text("left") == SHOWN else "",
            "search": request.search,
            "has_filters": request.search != "" or request.band != "" or bool(request.wanted.segments),
            "ids_are_texts": visit.schema.id_type == "text",
            "has_money": visit.schema.money_at_risk is not None,
            "hides_controls": visit.hides_controls,
            "control": _control(visit, connection, request) if not customers else None,
            "has_events": threshold is not None,
            "as_of": summary_state.as_of(connection),
            "files": {
                kind: visit.address(f"{CUSTOMERS}.{kind}", after=None, before=None)
                for kind in ("csv", "xlsx")
                if customers
            },
        },
    )


def read_csv(visit: Visit, connection: psycopg.Connection) -> Response:
    """Return all customers that the list would show, as CSV."""
    return _file(visit, connection, "csv")


def read_workbook(visit: Visit, connection: psycopg.Connection) -> View | Response:
    """Return all customers that the list would show, as an Excel workbook."""
    request = _request(visit, _bands(connection))
    if reading.count(connection, request.wanted, most=MOST_SHEET_ROWS - 1).number >= MOST_SHEET_ROWS:
        text = (
            f"A sheet of Excel has at most {number(MOST_SHEET_ROWS)} rows, and there are more customers. Download CSV, "
            f"or choose a segment or a band of risk."
        )
        return View("problem.html.j2", "Too many rows for Excel", {"text": text}, status=400)
    return _file(visit, connection, "xlsx")


def _file(visit: Visit, connection: psycopg.Connection, kind: Kind) -> Response:
    schema, bands = visit.schema, _bands(connection)
    request = _request(visit, bands)

    def rows(exporting: psycopg.Connection) -> Iterator[Sequence[Cell]]:
        if request.is_possible:
            for each in reading.every(exporting, request.wanted, request.order):
                yield _cells(schema, bands, each)

    header = [
        ("customer_id", schema.id_column.title),
        ("risk_score", "Risk score"),
        ("risk_band", "Risk"),
        ("previous_risk_score", "Risk score before"),
        ("money_at_risk", f"Money at risk ({schema.currency})" if schema.currency else "Money at risk"),
        *((column.column, segment_name(column)) for column in schema.segments),
        ("latest_event", "Latest event (UTC)"),
        ("predictions", "Predictions"),
        ("reasons", "Reasons"),
        ("left_at", "Left (UTC)"),
    ]
    return download(visit, "customers", kind, header, rows)


def _bands(connection: psycopg.Connection) -> RiskBands:
    return RiskBands(reading.high_risk_threshold(connection) or 1.0)


def _request(visit: Visit, bands: RiskBands) -> _Request:
    search = visit.text("search")
    customer_id = typed_id(visit.schema, search) if search else None
    is_prefix = visit.schema.id_type == "text"
    band = next((each for each in BANDS if each == visit.text("band")), None)
    risk_from, risk_below = (None, None) if band is None else bands.bounds(band)
    segments = {
        column.column: chosen
        for column in visit.schema.segments
        if (chosen := visit.text(segment_parameter(column.column)))
    }
    wanted = Filter(
        segments=segments,
        risk_from=risk_from,
        risk_below=risk_below,
        customer_id=None if is_prefix else customer_id,
        id_prefix=str(customer_id) if is_prefix and customer_id is not None else None,
        without_controls=visit.hides_controls,
        without_left=not search and visit.text("left") != SHOWN,
    )
    sort = next((each for each in SORTS if each == visit.text("sort")), DEFAULT_SORT)
    order = Order(sort, is_descending=visit.text("order") != "ascending")
    return _Request(wanted, order, search, band or "", is_possible=not search or customer_id is not None)


def _row(schema: CustomerSchema, bands: RiskBands, customer: Customer) -> Row:
    return Row(
        customer_id=customer.customer_id,
        address=addresses.customer(customer.customer_id),
        risk_score=customer.risk_score,
        band=bands.of(customer.risk_score),
        trend=trend(customer.risk_score, customer.previous_risk_score),
        causes=_causes(schema, customer),
        segments=[value_name(column, customer.segments.get(column.column)) for column in schema.segments],
        money_at_risk=customer.money_at_risk,
        event_timestamp=customer.event_timestamp,
        left_at=customer.left_at,
    )


def _cells(schema: CustomerSchema, bands: RiskBands, customer: Customer) -> Sequence[Cell]:
    return (
        customer.customer_id,
        _digits(customer.risk_score),
        bands.of(customer.risk_score),
        None if customer.previous_risk_score is None else _digits(customer.previous_risk_score),
        customer.money_at_risk,
        *(_segment_cell(column, customer.segments.get(column.column)) for column in schema.segments),
        customer.event_timestamp,
        customer.predictions,
        _causes(schema, customer),
        customer.left_at,
    )


def _segment_cell(column: Column, value: str | None) -> Cell:
    """Return the value of a segment: a number if it is one, and not a band or a text."""
    is_number = column.kind == "whole" and not column.segment_bounds and value is not None and _WHOLE.fullmatch(value)
    return int(value) if is_number and value is not None else value


def _digits(risk_score: float) -> float:
    """Return a score without the digits that its conversion to a double added."""
    return float(f"{risk_score:.7g}")


def _causes(schema: CustomerSchema, customer: Customer) -> str:
    return causes(sentences(customer.reasons or [], schema))


def _segment_choices(
    schema: CustomerSchema, known: Mapping[str, Sequence[str]], chosen: Mapping[str, str]
) -> list[SegmentChoice]:
    found = []
    for column in schema.segments:
        value = chosen.get(column.column, "")
        values = {*known.get(column.column, ()), *([value] if value else ())}
        choices = [("", "All"), *((each or "", value_name(column, each)) for each in in_order(column, values))]
        found.append(SegmentChoice(segment_parameter(column.column), segment_name(column), choices, value))
    return found


def _sort_link(visit: Visit, sort: Sort, order: Order) -> SortLink:
    """Return the head of a column. The present order is turned round; another one begins with the greatest value."""
    is_present = sort == order.sort
    turned = "ascending" if is_present and order.is_descending else None
    address = visit.address(CUSTOMERS, sort=sort, order=turned, after=None, before=None)
    direction = ("descending" if order.is_descending else "ascending") if is_present else ""
    return SortLink(SORTS[sort], address, direction)


def _address_of(visit: Visit, name: str, place: Place) -> str:
    """Return the address of the part before or after a place."""
    value = place.value.isoformat() if isinstance(place.value, datetime) else repr(place.value)
    other = "before" if name == "after" else "after"
    return visit.address(CUSTOMERS, **{name: f"{value}{_SEPARATOR}{place.customer_id}", other: None})


def _place(visit: Visit, name: str, sort: Sort) -> Place | None:
    """Return a place that the address names; None if it names none, or none in this order."""
    value, _, text = visit.query.get(name, "").partition(_SEPARATOR)
    customer_id = typed_id(visit.schema, text)
    if customer_id is None:
        return None
    try:
        place = datetime.fromisoformat(value) if sort == "latest" else float(value)
    except ValueError:
        return None
    return Place(place, customer_id)


def _control(visit: Visit, connection: psycopg.Connection, request: _Request) -> str | None:
    """Return the address of the customer that was searched for, if only the control group keeps it from the list."""
    customer_id = typed_id(visit.schema, request.search)
    if not visit.hides_controls or customer_id is None:
        return None
    exists = one_customer.summary(connection, customer_id) is not None
    return addresses.customer(customer_id) if exists and not request.band and not request.wanted.segments else None


PAGES: Final[Sequence[Page]] = (
    Page(CUSTOMERS, read, label="Customers"),
    Page(f"{CUSTOMERS}.csv", read_csv),
    Page(f"{CUSTOMERS}.xlsx", read_workbook, seconds=EXPORT_SECONDS),
)
