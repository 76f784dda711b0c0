"""Columns of tables as PostgreSQL's catalog lists them. Reads only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.rows import class_row

_COLUMNS: Final = """
    select attname::text as name,
        case format_type(atttypid, atttypmod)
            when 'timestamp with time zone' then 'timestamptz' else format_type(atttypid, atttypmod)
        end as type,
        not attnotnull as nullable, attgenerated <> '' as generated,
        coalesce(col_description(attrelid, attnum), '') as comment
    from pg_attribute
    where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum
"""

_ROW_TYPE: Final = """
    select c.reltype, a.attname::text, a.atttypid
    from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.oid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped order by a.attnum
"""


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column of a table.

    Attributes:
        name: its name.
        type: PostgreSQL type.
        nullable: whether PostgreSQL accepts null.
        generated: whether PostgreSQL computes the value.
        comment: its description, or an empty text.
    """

    name: str
    type: str
    nullable: bool = False
    generated: bool = False
    comment: str = ""


@dataclass(frozen=True)
class RowType:
    """The type of a table's rows.

    Attributes:
        oid: its number in pg_type.
        columns: number of the type of each column of the table, by name, in the table's order.
    """

    oid: int
    columns: Mapping[str, int]


def columns_of(connection: psycopg.Connection, table: str) -> list[TableColumn]:
    """Return the columns of a table in their physical order; none if there is no such table."""
    with connection.cursor(row_factory=class_row(TableColumn)) as cursor:
        return cursor.execute(_COLUMNS, (table,)).fetchall()


def row_type_of(connection: psycopg.Connection, table: str) -> RowType:
    """Return the type of a table's rows."""
    rows = connection.execute(_ROW_TYPE, (table,)).fetchall()
    if not rows:
        raise RuntimeError(f"There is no table {table!r}.")
    return RowType(oid=rows[0][0], columns={name: oid for _, name, oid in rows})
