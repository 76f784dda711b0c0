"""What the dashboard's list of customers reads: customer_summary in the order of its indexes, page by page.

Reads only, and no raw predictions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypedDict

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

Sort = Literal["risk", "money", "latest"]

# Each is the first column of an index whose second one is customer_id. Without the table's alias, PostgreSQL would sort
# by the column of the result, which no index has.
_SORTED_BY: Final[Mapping[Sort, sql.SQL]] = {
    "risk": sql.SQL("s.risk_score"),
    "money": sql.SQL("coalesce(s.money_at_risk, '-infinity')"),
    "latest": sql.SQL("s.event_timestamp"),
}
_TYPES: Final[Mapping[Sort, sql.SQL]] = {
    "risk": sql.SQL("double precision"),
    "money": sql.SQL("double precision"),
    "latest": sql.SQL("timestamptz"),
}
# A score is stored with 7 digits. It is compared with thresholds as the stream does it: as a double.
_ROWS: Final = sql.SQL("""
    select customer_id, risk_score::double precision as risk_score,
        previous_risk_score::double precision as previous_risk_score, money_at_risk, segments, event_timestamp,
        predictions, (select reasons from high_risk_customers h where h.event_id = s.event_id) as reasons,
        left_at
    from {customers} s where {conditions}
    order by {sorted_by} {direction}, s.customer_id {direction} {limit}
""")
# PostgreSQL assumes that segments and scores have nothing to do with each other, and walks the index of the order until
# it has found enough rows. Customers with a rare value may be at the end of it, or all have another band: the walk then
# took 700 ms with 500,000 customers. The few with such a value are read and sorted instead: "offset 0" keeps PostgreSQL
# from walking.
_ALL_CUSTOMERS: Final = sql.SQL("customer_summary")
_FEW_CUSTOMERS: Final = sql.SQL("(select * from customer_summary where segments @> %(segments)s offset 0)")
_FEW: Final = 10_000
"""Reading and sorting them takes about 10 ms for each 3,000."""
_HAVE_SEGMENTS: Final = """
    select coalesce(sum(customers), 0)::bigint from customer_segment_summary where segments @> %s
"""
_LIMIT: Final = sql.SQL("limit %(limit)s")
_BEYOND: Final = sql.SQL("({sorted_by}, s.customer_id) {comparison} (%(place)s::{type}, %(place_id)s)")
# A case keeps its arm when CONTROL_SHARE changes, so both its arm and the customer's count. A smaller share has no
# customer that a larger one lacks, so only a case that was opened with a larger share can be of the other arm. Usually
# there is none. Looking up the customer of each waiting case of a control took 35 ms with 10,000 of them.
_CONTROLS_OF_LARGER_SHARES: Final = sql.SQL("""
    select c.customer_id from retention_cases c
    where c.arm = 'control' and c.status in ('open', 'assigned')
        and c.control_share > (select control_share from summary_state)
""")
# These cases are read once, and each customer is looked up among them. With "not exists" PostgreSQL would join all
# cases with all customers: 100 ms with 100,000 customers.
_CONDITIONS: Final[Mapping[str, sql.SQL | sql.Composed]] = {
    "segments": sql.SQL("segments @> %(segments)s"),
    "risk_from": sql.SQL("risk_score >= %(risk_from)s::double precision"),
    "risk_below": sql.SQL("risk_score < %(risk_below)s::double precision"),
    "customer_id": sql.SQL("customer_id = %(customer_id)s"),
    "id_prefix": sql.SQL("customer_id >= %(id_prefix)s and customer_id <= %(id_prefix)s || %(last)s"),
    "without_controls": sql.SQL("arm = 'contact' and customer_id not in ({})").format(_CONTROLS_OF_LARGER_SHARES),
    "without_left": sql.SQL("left_at is null"),
}
# Which index is best depends on the values. A prepared statement has one plan for all of them, with which counting took
# 220 ms instead of 50 ms, with 500,000 customers.
_IS_PREPARED: Final = False
_LAST: Final = "\U0010ffff"
"""Comes after every other character."""
_COUNT: Final = sql.SQL("""
    select count(*) from (select from {customers} s where {conditions} limit %(limit)s) as found
""")
# Of the contact arm, customers with an open case of the control arm are not listed. They are few, so they are looked up
# one by one: a join would read all customers.
_COUNT_BY_SEGMENTS: Final = sql.SQL("""
    select coalesce(sum(customers - case when %(without_left)s then left_customers else 0 end), 0)::bigint
        - case when %(without_controls)s then (
            select count(*) from ({controls}) as c
            where (
                select s.arm = 'contact' and s.segments @> %(segments)s
                    and (s.left_at is null or not %(without_left)s)
                from customer_summary s where s.customer_id = c.customer_id
            )
        ) else 0 end
    from customer_segment_summary
    where segments @> %(segments)s and (arm = 'contact' or not %(without_controls)s)
""").format(controls=_CONTROLS_OF_LARGER_SHARES)
_SEGMENT_VALUES: Final = """
    select key, array_agg(distinct value) from customer_segment_summary, jsonb_each_text(segments) group by key
"""
# Keys of batches sort by time.
_THRESHOLD: Final = """
    select high_risk_threshold from stream_batches where high_risk_threshold is not null order by batch desc limit 1
"""
_CHUNK_ROWS: Final = 1_000


@dataclass(frozen=True)
class Filter:
    """Which customers are wanted: those that meet all of these conditions.

    Attributes:
        segments: value or band of each chosen segment.
        risk_from: lowest score, 0..1; None for no bound.
        risk_below: the scores are below this one; None for no bound.
        customer_id: only this customer; None for all.
        id_prefix: begin of the ids, if they are texts; None for all.
        without_controls: whether customers whose risk nobody who calls customers may know are left out.
        without_left: whether customers who left, as an outcome says, are left out.
    """

    segments: Mapping[str, str] = field(default_factory=dict)
    risk_from: float | None = None
    risk_below: float | None = None
    customer_id: int | str | None = None
    id_prefix: str | None = None
    without_controls: bool = False
    without_left: bool = False

    @property
    def is_by_segments(self) -> bool:
        """Whether the summaries know how many customers there are: no score and no id is chosen."""
        return self == Filter(self.segments, without_left=self.without_left, without_controls=self.without_controls)


@dataclass(frozen=True)
class Order:
    """The order of the list; customers with equal values are in the order of their ids."""

    sort: Sort
    is_descending: bool = True


@dataclass(frozen=True)
class Place:
    """A place between two customers of a list: that of a customer with this value and id."""

    value: float | datetime
    customer_id: int | str


@dataclass(frozen=True)
class Customer:
    """A customer at the latest event. The comments of customer_summary and high_risk_customers explain each column."""

    customer_id: int | str
    risk_score: float
    previous_risk_score: float | None
    money_at_risk: float | None
    segments: Mapping[str, str]
    event_timestamp: datetime
    predictions: int
    reasons: "Sequence[Reason] | None"
    left_at: datetime | None

    def place(self, sort: Sort) -> Place:
        """Return the customer's place in a list."""
        if sort == "latest":
            return Place(self.event_timestamp, self.customer_id)
        money = float("-inf") if self.money_at_risk is None else self.money_at_risk
        return Place(self.risk_score if sort == "risk" else money, self.customer_id)


class Reason(TypedDict):
    """One column's contribution to the log-odds of churn, as high_risk_customers has it."""

    feature: str
    value: str | float | None
    contribution: float


@dataclass(frozen=True)
class CustomerList:
    """A part of the list, and whether there is more of it on either side."""

    customers: Sequence[Customer]
    has_previous: bool
    has_next: bool


@dataclass(frozen=True)
class Count:
    """How many customers were found; `is_more` if there are more."""

    number: int
    is_more: bool = False


def find(
    connection: psycopg.Connection,
    wanted: Filter,
    order: Order,
    *,
    limit: int,
    after: Place | None = None,
    before: Place | None = None,
) -> CustomerList:
    """Return the customers after or before a place; the first ones without a place.

    Args:
        connection: to read from.
        wanted: the customers.
        order: of the list.
        limit: most customers.
        after: where the part begins.
        before: where it ends, if `after` is not given.
    """
    place = after or before
    is_backwards = after is None and before is not None
    read = Order(order.sort, order.is_descending != is_backwards)
    customers = _customers(connection, wanted.segments)
    query, parameters = _query(wanted, read, place, limit=limit + 1, customers=customers)
    with connection.cursor(row_factory=class_row(Customer)) as cursor:
        found = cursor.execute(query, parameters, prepare=_IS_PREPARED).fetchall()
    is_more, found = len(found) > limit, found[:limit]
    if is_backwards:
        return CustomerList(found[::-1], has_previous=is_more, has_next=True)
    return CustomerList(found, has_previous=place is not None, has_next=is_more)


def every(connection: psycopg.Connection, wanted: Filter, order: Order) -> Iterator[Customer]:
    """Return all of the customers, read with a cursor of the server. The connection is in a transaction."""
    query, parameters = _query(wanted, order, None, limit=None)
    with connection.cursor("every_customer", row_factory=class_row(Customer)) as cursor:
        cursor.itersize = _CHUNK_ROWS
        yield from cursor.execute(query, parameters)


def count(connection: psycopg.Connection, wanted: Filter, *, most: int) -> Count:
    """Return how many customers there are.

    A number above `most` is only known if no score and no id is chosen.
    """
    if wanted.is_by_segments:
        parameters = {
            "segments": Jsonb(dict(wanted.segments)),
            "without_left": wanted.without_left,
            "without_controls": wanted.without_controls,
        }
        row = connection.execute(_COUNT_BY_SEGMENTS, parameters).fetchone()
        return Count(0 if row is None else row[0])
    conditions, parameters = _conditions(wanted)
    query = _COUNT.format(customers=_customers(connection, wanted.segments), conditions=_all(conditions))
    row = connection.execute(query, {**parameters, "limit": most + 1}, prepare=_IS_PREPARED).fetchone()
    number = 0 if row is None else row[0]
    return Count(min(number, most), number > most)


def segment_values(connection: psycopg.Connection) -> dict[str, list[str]]:
    """Return the values and bands that customers have, by the segment's name in tables."""
    return dict(connection.execute(_SEGMENT_VALUES).fetchall())


def high_risk_threshold(connection: psycopg.Connection) -> float | None:
    """Return the threshold of the latest batch, 0..1; None before the first one."""
    row = connection.execute(_THRESHOLD).fetchone()
    return None if row is None else row[0]


def _customers(connection: psycopg.Connection, segments: Mapping[str, str]) -> sql.SQL:
    """Return where customers with these values and bands are read: a relation that depends on how many there are."""
    if not segments:
        return _ALL_CUSTOMERS
    row = connection.execute(_HAVE_SEGMENTS, (Jsonb(dict(segments)),)).fetchone()
    return _FEW_CUSTOMERS if row is not None and row[0] <= _FEW else _ALL_CUSTOMERS


def _query(
    wanted: Filter,
    order: Order,
    place: Place | None,
    *,
    limit: int | None,
    customers: sql.SQL = _ALL_CUSTOMERS,
) -> tuple[sql.Composed, dict[str, object]]:
    sorted_by, is_descending = _SORTED_BY[order.sort], order.is_descending
    conditions, parameters = _conditions(wanted)
    if place is not None:
        comparison = sql.SQL("<") if is_descending else sql.SQL(">")
        conditions.append(_BEYOND.format(sorted_by=sorted_by, comparison=comparison, type=_TYPES[order.sort]))
        parameters |= {"place": place.value, "place_id": place.customer_id}
    query = _ROWS.format(
        customers=customers,
        conditions=_all(conditions),
        sorted_by=sorted_by,
        direction=sql.SQL("desc") if is_descending else sql.SQL("asc"),
        limit=sql.SQL("") if limit is None else _LIMIT,
    )
    return query, parameters | {"limit": limit}


def _conditions(wanted: Filter) -> tuple[list[sql.Composable], dict[str, object]]:
    values: dict[str, object] = {
        "segments": Jsonb(dict(wanted.segments)) if wanted.segments else None,
        "risk_from": wanted.risk_from,
        "risk_below": wanted.risk_below,
        "customer_id": wanted.customer_id,
        "id_prefix": wanted.id_prefix,
        "without_controls": wanted.without_controls or None,
        "without_left": wanted.without_left or None,
    }
    given = {name: value for name, value in values.items() if value is not None}
    return [_CONDITIONS[name] for name in given], {**given, "last": _LAST}


def _all(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(" and ").join(conditions) if conditions else sql.SQL("true")
