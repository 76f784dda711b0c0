"""The rows about one customer, in every table that has some: where they are, reading them, and deleting them.

Each table has a module that owns its SQL. What is about one customer is here, in one list, so that an export, an
erasure and its plan cannot differ, and so that a test can compare the list with the tables that there are. What the
rows were counted in is corrected by the modules of those sums.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

_OWN: Final = sql.SQL("customer_id = %(customer_id)s")
_OF_CASES: Final = sql.SQL("case_id in (select case_id from retention_cases where customer_id = %(customer_id)s)")
_OF_ENTRIES: Final = sql.SQL("entry in (select entry from retention_list_entries where customer_id = %(customer_id)s)")
_OF_EVENTS: Final = sql.SQL("""
    event_id = any(%(event_ids)s) or event_id in (
        select event_id from churn_predictions where customer_id = %(customer_id)s
    )
""")
# An outcome may name only the event.
_OUTCOMES: Final = sql.SQL("""
    customer_id = %(customer_id)s or event_id = any(%(event_ids)s) or event_id in (
        select event_id from churn_predictions where customer_id = %(customer_id)s
    )
""")


@dataclass(frozen=True)
class Place:
    """A table with rows that are about one customer each.

    Attributes:
        table: its name.
        condition: which rows are about the customer; arguments are customer_id and event_ids, those of archived events.
        is_of_commits: whether commits of the stream write rows. Others hold off erasures meanwhile.
    """

    table: str
    condition: sql.SQL
    is_of_commits: bool = False


PLACES: Final = (
    Place("replaced_predictions", _OWN),
    Place("spark_predictions", _OWN),
    Place("shadow_predictions", _OWN),
    Place("recovered_predictions", _OF_EVENTS),
    Place("high_risk_customers", _OWN, is_of_commits=True),
    Place("customer_file_scores", _OWN),
    Place("changed_outcomes", _OUTCOMES),
    Place("customer_outcomes", _OUTCOMES),
    Place("churn_predictions", _OWN, is_of_commits=True),
    Place("alerted_cases", _OF_CASES),
    Place("retention_entry_outcomes", _OF_ENTRIES),
    Place("retention_list_entries", _OWN),
    Place("retention_case_history", _OF_CASES),
    Place("retention_cases", _OWN),
    Place("do_not_contact", _OWN),
    Place("customer_summary", _OWN),
)
"""In an order in which the rows can be deleted: a row that refers to others before these."""

# Messages whose bytes hold an id, in whatever encoding of JSON. The caller reads them to find out whether they name it.
_MENTIONING: Final = sql.SQL("""
    select * from {table}
    where (%(since)s::timestamptz is null or received_at >= %(since)s) and (
        position(convert_to(%(text)s, 'UTF8') in payload) > 0
        or (%(is_text)s and position('\\x5c75'::bytea in payload) > 0)
    )
""")
_MESSAGES: Final = """
    select * from alert_outbox m
    where exists (
        select from jsonb_array_elements(case jsonb_typeof(m.payload -> 'cases') when 'array' then m.payload -> 'cases'
            else '[]' end) as each
        where (each ->> 'case_id')::bigint = any(%s)
    )
    order by id
"""

Row = dict[str, Any]


def count(connection: psycopg.Connection, customer_id: int | str, *, event_ids: Sequence[str] = ()) -> dict[str, int]:
    """Return how many rows of each table are about a customer.

    Args:
        connection: to the platform's database.
        customer_id: of the type that the customer schema says.
        event_ids: archived events of the customer.
    """
    found = {}
    for place in PLACES:
        query = sql.SQL("select count(*) from {} where {}").format(sql.Identifier(place.table), place.condition)
        row = connection.execute(query, _arguments(customer_id, event_ids)).fetchone()
        found[place.table] = 0 if row is None else int(row[0])
    return found


def read(
    connection: psycopg.Connection, customer_id: int | str, *, event_ids: Sequence[str] = ()
) -> Iterator[tuple[str, list[Row]]]:
    """Yield each table with its rows about a customer. See count() for the arguments."""
    for place in PLACES:
        query = sql.SQL("select * from {} where {}").format(sql.Identifier(place.table), place.condition)
        yield place.table, _rows(connection, query, _arguments(customer_id, event_ids))


def customers(connection: psycopg.Connection) -> list[int | str]:
    """Return the ids of all customers of whom a table has rows."""
    tables = [place.table for place in PLACES if place.condition is _OWN]
    query = sql.SQL(" union ").join(
        sql.SQL("select customer_id from {}").format(sql.Identifier(table)) for table in tables
    )
    return [customer_id for (customer_id,) in connection.execute(query)]


def unused_messages(connection: psycopg.Connection) -> Iterator[bytes]:
    """Yield the payloads of dead letters and refused outcomes, which may be about any customer."""
    for table in ("dead_letter_events", "refused_outcomes"):
        query = sql.SQL("select payload from {} where payload is not null").format(sql.Identifier(table))
        with connection.transaction(), connection.cursor(f"payloads_of_{table}") as cursor:
            for (payload,) in cursor.execute(query):
                yield bytes(payload)


def rows_of(
    connection: psycopg.Connection, table: str, customer_id: int | str, *, event_ids: Sequence[str] = ()
) -> list[Row]:
    """Return the rows of one of the tables. See count() for the arguments."""
    return next(rows for name, rows in read(connection, customer_id, event_ids=event_ids) if name == table)


def case_ids(connection: psycopg.Connection, customer_id: int | str) -> list[int]:
    """Return the numbers of a customer's cases."""
    rows = connection.execute("select case_id from retention_cases where customer_id = %s", (customer_id,))
    return [case_id for (case_id,) in rows]


def lock_cases(connection: psycopg.Connection, customer_id: int | str) -> None:
    """Wait for people who are changing a case of the customer, and hold off others until the transaction ends."""
    connection.execute("select from retention_cases where customer_id = %s for update", (customer_id,))


def delete(
    connection: psycopg.Connection, customer_id: int | str, places: Sequence[Place], *, event_ids: Sequence[str] = ()
) -> dict[str, int]:
    """Delete the rows of some of PLACES that are about a customer; return how many. See count() for the arguments.

    The caller corrects first what these rows were counted in, in the same transaction.
    """
    deleted = {}
    for place in places:
        statement = sql.SQL("delete from {} where {}").format(sql.Identifier(place.table), place.condition)
        deleted[place.table] = connection.execute(statement, _arguments(customer_id, event_ids)).rowcount
    return deleted


def mentioning(
    connection: psycopg.Connection,
    table: str,
    customer_id: int | str,
    names: Callable[[bytes], bool],
    *,
    since: datetime | None = None,
) -> list[Row]:
    """Return the rows of a table whose payload, a message that could not be used, is about a customer.

    Args:
        connection: to the platform's database.
        table: dead_letter_events or refused_outcomes.
        customer_id: of the customer.
        names: decides whether a payload names the customer.
        since: only rows received since then; None for all.
    """
    query = _MENTIONING.format(table=sql.Identifier(table))
    arguments = {"text": str(customer_id), "is_text": isinstance(customer_id, str), "since": since}
    return [row for row in _rows(connection, query, arguments) if names(bytes(row["payload"]))]


def messages_about(connection: psycopg.Connection, case_ids: Sequence[int]) -> list[Row]:
    """Return the rows of alert_outbox that are about these cases, and perhaps about others."""
    return _rows(connection, sql.SQL(_MESSAGES), (list(case_ids),))


def _rows(
    connection: psycopg.Connection, query: sql.SQL | sql.Composed, arguments: Mapping[str, object] | Sequence[object]
) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, arguments).fetchall()


def _arguments(customer_id: int | str, event_ids: Sequence[str]) -> dict[str, object]:
    return {"customer_id": customer_id, "event_ids": list(event_ids)}
