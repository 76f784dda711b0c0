"""Binary formats: PostgreSQL reads the values that were encoded."""

from datetime import UTC, datetime
from typing import LiteralString

import numpy as np
import psycopg
import pytest
from psycopg import sql

from churn_platform.database.bulk import (
    Column,
    Rows,
    array,
    copy_rows,
    encode_array,
    encode_row_array,
    read_columns,
)
from churn_platform.database.catalog import row_type_of

TABLE = """
    create temporary table wide (
        a smallint, b integer, c bigint, d real, e double precision, f timestamptz, g uuid, h text, i text, j smallint,
        k date, l date, m integer, n text, o text
    )
"""
READ = "select a, b, c, d, e, f, g::text, h, i, j, k::text, l::text, m, n, o from wide order by g"
INSERT = "insert into wide select (unnest(%s::wide[])).*"
IDS = [f"0193{number:04d}-0000-7000-8000-00000000000{number}" for number in range(4)]


def columns() -> dict[str, Column]:
    """Four rows of every type, with texts of several lengths and nulls."""
    moment = datetime(2026, 11, 24, 9, 30, 15, 123456, tzinfo=UTC)
    return {
        "a": Column("smallint", np.array([1, -2, 3, 4], np.int16)),
        "b": Column("integer", np.array([1, 2, 3, 2**31 - 1])),
        "c": Column("bigint", np.array([1, 2, 3, 2**62])),
        "d": Column("real", np.array([0.5, 0.25, -1, 3], np.float32)),
        "e": Column("double precision", np.array([0.1, 2.5, 1e300, -4])),
        "f": Column("timestamptz", np.full(4, round(moment.timestamp() * 1e6))),
        "g": Column("uuid", np.frombuffer(b"".join(bytes.fromhex(i.replace("-", "")) for i in IDS), "V16")),
        "h": Column("text", np.char.encode(["", "ä", "Germany", "x" * 40], "utf-8")),
        "i": Column("text", np.array([b"a", b"", b"ccc", b""]), null=np.array([False, True, False, False])),
        "j": Column("smallint", np.array([0, -1, 1, -1], np.int16), null=np.array([False, True, False, True])),
        "k": Column("date", np.array(["1900-01-01", "1999-12-31", "2000-01-01", "2026-11-28"], "datetime64[s]")),
        "l": Column(
            "date",
            np.array(["NaT", "2024-02-29", "NaT", "9999-12-31"], "datetime64[D]"),
            null=np.array([True, False, True, False]),
        ),
        "m": Column("integer", np.array([np.nan, 2.0, -3.0, np.nan]), null=np.array([True, False, False, True])),
        "n": Column("text", np.array(["S-000123", "ä", "C", "顧客"], object)),
        "o": Column("text", np.array([None, "", None, "x"], object), null=np.array([True, False, True, False])),
    }


def test_rows_are_stored_unchanged(database: str) -> None:
    with psycopg.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(TABLE)
        copy_rows(cursor, "wide", Rows(columns()))
        rows = cursor.execute(READ).fetchall()
        cursor.execute("truncate wide")
        cursor.execute(INSERT, (encode_row_array(columns(), row_type_of(connection, "wide")),))
        inserted = cursor.execute(READ).fetchall()

    assert inserted == rows
    moment = datetime(2026, 11, 24, 9, 30, 15, 123456, tzinfo=UTC)
    assert rows == [
        (1, 1, 1, 0.5, 0.1, moment, IDS[0], "", "a", 0, "1900-01-01", None, None, "S-000123", None),
        (-2, 2, 2, 0.25, 2.5, moment, IDS[1], "ä", None, None, "1999-12-31", "2024-02-29", 2, "ä", ""),
        (3, 3, 3, -1.0, 1e300, moment, IDS[2], "Germany", "ccc", 1, "2000-01-01", None, -3, "C", None),
        (
            4,
            2**31 - 1,
            2**62,
            3.0,
            -4.0,
            moment,
            IDS[3],
            "x" * 40,
            "",
            None,
            "2026-11-28",
            "9999-12-31",
            None,
            "顧客",
            "x",
        ),
    ]


def test_columns_of_the_table_that_are_not_given_are_null(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create temporary table changed (a integer, gone text, other jsonb, b text)")
        connection.execute("alter table changed drop column gone")
        rows = encode_row_array(
            {"b": Column("text", np.array([b"x", b"yy"])), "a": Column("integer", np.array([1, 2]))},
            row_type_of(connection, "changed"),
        )
        found = connection.execute("select a, other, b from unnest(%s::changed[])", (rows,)).fetchall()

    assert found == [(1, None, "x"), (2, None, "yy")]


def test_a_few_values_are_passed_as_an_array(database: str) -> None:
    moment = datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC)
    arrays = {
        "integers": array("integer", [1, None, -3]),
        "bigints": array("bigint", [2**62, None]),
        "doubles": array("double precision", [0.1, -1e300]),
        "times": array("timestamptz", [moment]),
        "bytes": array("bytea", [b"\0", None, b""]),
        "none": array("bigint", []),
        "ids": encode_array(Column("uuid", np.empty(0, "V16"))),
    }
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "select %(integers)s::integer[], %(bigints)s::bigint[], %(doubles)s::double precision[], "
            "%(times)s::timestamptz[], %(bytes)s::bytea[], %(none)s::bigint[], %(ids)s::uuid[]",
            arrays,
        ).fetchone()

    assert found == ([1, None, -3], [2**62, None], [0.1, -1e300], [moment], [b"\0", None, b""], [], [])


def test_many_rows_are_written_in_several_chunks(database: str) -> None:
    count = 50_000
    texts = np.array([f"{number:0{1 + number % 30}d}".encode() for number in range(count)])
    with psycopg.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("create temporary table tall (number integer, text text)")
        copy_rows(cursor, "tall", Rows({"number": Column("integer", np.arange(count)), "text": Column("text", texts)}))
        found = cursor.execute("select count(*), count(*) filter (where text::bigint = number) from tall").fetchone()

    assert found == (count, count)


def test_columns_are_read_unchanged_in_several_chunks(database: str) -> None:
    types = {
        "a": "integer",
        "b": "bigint",
        "c": "real",
        "d": "smallint",
        "e": "double precision",
        "f": "uuid",
    }
    query = sql.SQL("""
        select n::integer, n::bigint * 1000000000000, (n / 4.0)::real, (n % 7)::smallint, n / 8.0::double precision,
            lpad(to_hex(n), 32, '0')::uuid
        from generate_series(1, 200000) as n
    """)
    reported: list[int] = []
    with psycopg.connect(database) as connection, connection.cursor() as cursor:
        found = read_columns(cursor, query, types, on_rows=reported.append)

    numbers = np.arange(1, 200_001)
    assert (found["a"] == numbers).all()
    assert (found["b"] == numbers * 10**12).all()
    assert (found["c"] == (numbers / 4).astype(np.float32)).all()
    assert (found["d"] == numbers % 7).all()
    assert (found["e"] == numbers / 8).all()
    assert found["f"].tobytes() == b"".join(int(n).to_bytes(16, "big") for n in numbers)
    assert len(reported) > 1


def test_a_query_without_rows_gives_empty_columns(database: str) -> None:
    with psycopg.connect(database) as connection, connection.cursor() as cursor:
        found = read_columns(cursor, sql.SQL("select 1, 2::bigint where false"), {"a": "integer", "b": "bigint"})

    assert {name: len(values) for name, values in found.items()} == {"a": 0, "b": 0}


@pytest.mark.parametrize("query", ["select null::integer", "select 1::bigint", "select 1, 2"])
def test_a_null_and_another_type_are_refused(database: str, query: LiteralString) -> None:
    with (
        psycopg.connect(database) as connection,
        connection.cursor() as cursor,
        pytest.raises(ValueError, match=r"of type 'integer'|other columns than a"),
    ):
        read_columns(cursor, sql.SQL(query), {"a": "integer"})
