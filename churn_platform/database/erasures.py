"""The table erasures: the audit trail of erasures, which does not say whom they were about."""

from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

_FINISH: Final = """
    update erasures set finished = clock_timestamp(), counts = %s where erasure = %s
"""


def begin(connection: psycopg.Connection, *, erased_by: str, counts: Mapping[str, int]) -> int:
    """Record an erasure in the transaction that deletes the rows; return its number."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        number = cursor.execute(
            "insert into erasures (erased_by, counts) values (%s, %s) returning erasure",
            (erased_by, Jsonb(dict(counts))),
        ).fetchone()
    if number is None:
        raise RuntimeError("An insert returned no row; PostgreSQL always returns one.")
    return int(number)


def finish(connection: psycopg.Connection, erasure: int, counts: Mapping[str, int]) -> None:
    """Record that an erasure is complete, and all that it has erased."""
    connection.execute(_FINISH, (Jsonb(dict(counts)), erasure))
