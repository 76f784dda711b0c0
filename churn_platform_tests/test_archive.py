"""Archived predictions are either in a file or in the table, even if a process dies or a server is down."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from churn_platform import archive
from churn_platform.archive import Archived, ArchiveError, archive_next
from churn_platform.database import churn_predictions, customer_schemas, stream_batches, stream_positions
from churn_platform.database.advisory_locks import archive_lock
from churn_platform.database.migrations import upgrade
from churn_platform.files.artifacts import MARKER, read_bytes, write_bytes
from churn_platform.files.exceptions import ArtifactStoreUnreachableError
from churn_platform.local.stack import Stack
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.files.s3_server import Server

NOW = datetime(2026, 11, 25, tzinfo=UTC)
BEFORE = NOW - timedelta(days=90)

PLAN = """
    insert into stream_batches (batch, planned, opened, closed, reported, run_id, events, predictions)
    values (%(batch)s, %(closed)s, %(closed)s, %(closed)s, %(reported)s, 'a run', %(rows)s, %(rows)s)
"""
# Every third age, label and reference is null; a reference holds what CSV has to quote.
FILL = """
    insert into churn_predictions (
        event_id, event_ref, customer_id, prediction, risk_score, predicted_at, event_timestamp, model_version,
        credit_score, geography, gender, age, tenure, balance, num_of_products, has_cr_card, is_active_member,
        estimated_salary, true_churn_label, batch, kafka_partition, kafka_offset
    )
    select gen_random_uuid(), case when n %% 3 > 0 then E'a "quoted",\nref ' || n end, 15600000 + n, n %% 2, random(),
        %(closed)s, %(closed)s::timestamptz - n * interval '1.000001 seconds', 1, 600, 'Spain', 'Female',
        case when n %% 3 > 0 then 18 + random() * 60 end, 3, random() * 1e5, 2, 1, 0, random() * 1e5,
        case when n %% 3 > 0 then 1 end, %(batch)s, n %% 3, %(start)s + n
    from generate_series(1, %(rows)s) as n
"""
RANGES = """
    insert into stream_ranges (batch, topic_id, kafka_partition, start_offset, end_offset, sealed_offset)
    select %(batch)s, 'topic-id', partition, %(start)s, last, last
    from generate_series(0, 2) as partition, (values (%(start)s + 1 + %(rows)s)) as v (last)
"""


class Table:
    """A database with batches, and its archive."""

    def __init__(self, connection: psycopg.Connection, root: str) -> None:
        self.connection, self.root, self._start = connection, root, 0

    def add(self, batch: str, rows: int, *, days: float = 100, reported: bool = True) -> None:
        """Add a batch that was closed this many days ago."""
        values = {
            "batch": batch,
            "rows": rows,
            "closed": NOW - timedelta(days=days),
            "reported": reported,
            "start": self._start,
        }
        for statement in (PLAN, FILL, RANGES):
            self.connection.execute(statement, values)
        self._start += rows + 1

    def archive(
        self,
        *,
        file_rows: int = archive.FILE_ROWS,
        write: Callable[[str, bytes], object] = write_bytes,
        read: Callable[[str], bytes] = read_bytes,
    ) -> list[Archived]:
        """Archive until nothing is left to archive."""
        done = []
        with archive_lock(self.connection) as held:
            assert held
            while file := archive_next(
                self.connection, self.root, before=BEFORE, file_rows=file_rows, write=write, read=read
            ):
                done.append(file)
        return done

    def rows(self) -> dict[str, int]:
        """Return the number of rows in churn_predictions, by batch."""
        return dict(self.connection.execute("select batch, count(*) from churn_predictions group by 1").fetchall())

    def batch(self, key: str) -> stream_batches.Batch:
        """Return a batch of the ledger."""
        found = stream_batches.find_batch(self.connection, key)
        assert found is not None
        return found

    def files(self) -> list[Path]:
        """Return all files of the archive."""
        return sorted(path for path in Path(self.root).rglob("*") if path.is_file() and path.name != MARKER)


@pytest.fixture
def table(database: str, tmp_path: Path) -> Iterator[Table]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("insert into stream_topics (topic_id, topic) values ('topic-id', 'events')")
        stream_positions.add_positions(connection, topic="events", topic_id="topic-id", starts={0: 0, 1: 0, 2: 0})
        connection.execute("update stream_positions set next_offset = 1000000000, published_to = 1000000000")
        yield Table(connection, str(tmp_path))


def read(file: Path | str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(read_bytes(str(file)))).to_pylist()
    return rows


SINGLE_PRECISION = ("risk_score", "probability", "age")


def single(value: float | None) -> float | None:
    """Return a value of PostgreSQL in single precision, as it is in Parquet."""
    return None if value is None else float(np.float32(value))


def test_a_file_holds_every_column_of_every_row_as_the_table_did(table: Table) -> None:
    table.add("20260801T000000000Z", 50)
    with table.connection.cursor(row_factory=dict_row) as cursor:
        before = cursor.execute("select * from churn_predictions order by kafka_partition, kafka_offset").fetchall()

    [archived] = table.archive()

    assert read(archived.file) == [
        {**row, "event_id": str(row["event_id"]), **{name: single(row[name]) for name in SINGLE_PRECISION}}
        for row in before
    ]
    assert table.rows() == {}


def test_a_file_holds_batches_of_one_schema_and_that_schema(table: Table, bank_schema: CustomerSchema) -> None:
    later = replace(bank_schema, description="Other words")
    customer_schemas.record(table.connection, later)
    for day, schema in enumerate((None, bank_schema, bank_schema, later), start=1):
        table.add(f"2026080{day}T000000000Z", 5)
        if schema is not None:
            table.connection.execute(
                "update stream_batches set schema_fingerprint = %s where batch = %s",
                (schema.fingerprint, f"2026080{day}T000000000Z"),
            )

    done = table.archive()

    assert [each.batches for each in done] == [1, 2, 1]
    metadata = [pq.read_schema(each.file).metadata or {} for each in done]
    assert [each.get(archive.SCHEMA_FINGERPRINT, b"").decode() for each in metadata] == [
        "",
        bank_schema.fingerprint,
        later.fingerprint,
    ]
    assert CustomerSchema.from_json(metadata[2][archive.SCHEMA_DOCUMENT].decode()) == later


def test_a_column_that_left_the_schema_is_archived_too(
    table: Table, stack: Stack, bank_schema: CustomerSchema, database: str
) -> None:
    table.add("20260801T000000000Z", 5)
    without = tuple(column for column in bank_schema.columns if column.name != "Balance")
    owner = make_conninfo(stack.owner_dsn, dbname=str(conninfo_to_dict(database)["dbname"]))
    upgrade(owner, replace(bank_schema, columns=(*without, Column(name="Since", kind="date", segment=True))))

    [archived] = table.archive()

    found = read(archived.file)
    assert all(row["balance"] > 0 and row["since"] is None for row in found)
    assert pq.read_schema(archived.file).field("since").type == pa.date32()


def test_in_s3_nothing_leaves_the_table_while_the_server_is_away(table: Table, s3: Server, s3_root: str) -> None:
    table.root = s3_root
    table.add("20260801T000000000Z", 50)
    s3.stop()
    try:
        with pytest.raises(ArtifactStoreUnreachableError):
            table.archive()
        assert table.rows() == {"20260801T000000000Z": 50}
    finally:
        s3.start()

    [archived] = table.archive()

    assert archived.file.startswith(f"{s3_root}/archive/churn_predictions/")
    assert len(read(archived.file)) == 50
    assert table.rows() == {}


def test_only_reported_batches_that_were_closed_before_the_given_time_are_archived(table: Table) -> None:
    table.add("20260801T000000000Z", 5)
    table.add("20260802T000000000Z", 6, reported=False)
    table.add("20260828T000000000Z", 7, days=89.9)
    table.connection.execute(
        "insert into stream_batches (batch, planned, opened) values ('open', %s, %s)", (BEFORE, BEFORE)
    )

    [archived] = table.archive()

    assert (archived.batches, archived.rows) == (1, 5)
    assert table.rows() == {"20260802T000000000Z": 6, "20260828T000000000Z": 7}
    assert table.batch("20260801T000000000Z").archive == archived.file
    assert table.batch("20260801T000000000Z").archived is not None
    assert [table.batch(key).archive for key in ("20260802T000000000Z", "20260828T000000000Z", "open")] == [None] * 3


def test_the_ledgers_counts_and_ranges_do_not_change(table: Table) -> None:
    table.add("20260801T000000000Z", 5)
    figures = table.connection.execute("select events, predictions from stream_batches").fetchall()
    ranges = table.connection.execute("select * from stream_ranges order by 1, 2, 3").fetchall()

    table.archive()

    assert table.connection.execute("select events, predictions from stream_batches").fetchall() == figures
    assert table.connection.execute("select * from stream_ranges order by 1, 2, 3").fetchall() == ranges


def test_a_file_holds_whole_consecutive_batches_up_to_its_size(table: Table) -> None:
    for day, rows in enumerate([40, 60, 1, 300, 0], start=1):
        table.add(f"2026080{day}T000000000Z", rows)

    done = table.archive(file_rows=100)

    assert [(each.batches, each.rows) for each in done] == [(2, 100), (1, 1), (1, 300), (1, 0)]
    assert sum(len(read(file)) for file in table.files()) == 401
    assert {Path(each.file) for each in done} == set(table.files())


def test_a_second_call_finds_nothing(table: Table) -> None:
    table.add("20260801T000000000Z", 5)
    table.archive()

    assert table.archive() == []


def test_a_batch_that_is_not_completely_published_is_not_archived(table: Table) -> None:
    table.add("20260801T000000000Z", 5)
    table.add("20260802T000000000Z", 5)
    table.connection.execute("update stream_positions set published_to = 11 where kafka_partition = 2")

    done = table.archive()

    assert [each.batches for each in done] == [1]
    assert table.rows() == {"20260802T000000000Z": 5}


class Crash(BaseException):
    """The end of the process."""


@pytest.mark.parametrize("at", ["write", "read"])
def test_a_process_that_dies_between_file_and_delete_is_completed_by_the_next(table: Table, at: str) -> None:
    table.add("20260802T000000000Z", 5)

    def dies(*_: object) -> NoReturn:
        raise Crash

    attempts = {"write": lambda: table.archive(write=dies), "read": lambda: table.archive(read=dies)}
    with pytest.raises(Crash):
        attempts[at]()
    assert table.rows() == {"20260802T000000000Z": 5}
    table.add("20260801T000000000Z", 7)  # older, and due by now: it must not change what the first file holds

    done = table.archive()

    assert [each.rows for each in done] == [5, 7]
    assert {Path(each.file) for each in done} == set(table.files())
    assert [len(read(each.file)) for each in done] == [5, 7]
    assert table.rows() == {}


def test_a_file_with_other_content_than_was_written_deletes_nothing(table: Table) -> None:
    table.add("20260801T000000000Z", 5)
    table.add("20260802T000000000Z", 2)
    other = io.BytesIO()
    columns = churn_predictions.stored_columns(table.connection)
    pq.write_table(archive.arrow_schema(columns).empty_table(), other)

    with pytest.raises(ArchiveError, match="the 0 rows read back are not the 7"):
        table.archive(write=lambda *_: None, read=lambda _: other.getvalue())

    assert table.rows() == {"20260801T000000000Z": 5, "20260802T000000000Z": 2}
    assert [each.rows for each in table.archive()] == [7]


@pytest.mark.parametrize(
    ("meanwhile", "message"),
    [
        ("update stream_batches set replays = replays + 1", "was replayed while it was written"),
        ("delete from churn_predictions where customer_id = 15600001", "holds 5 rows of 1 batches, .* has 4 rows"),
    ],
)
def test_a_batch_that_changes_while_it_is_written_is_left_and_archived_next_time(
    table: Table, database: str, meanwhile: str, message: str
) -> None:
    table.add("20260801T000000000Z", 5)

    def read_while_it_changes(uri: str) -> bytes:
        with psycopg.connect(database, autocommit=True) as other:
            other.execute(meanwhile.encode())
        return read_bytes(uri)

    with pytest.raises(ArchiveError, match=message):
        table.archive(read=read_while_it_changes)
    remaining = sum(table.rows().values())
    assert remaining > 0

    assert [each.rows for each in table.archive()] == [remaining]
    assert [len(read(file)) for file in table.files()] == [remaining]


@pytest.mark.parametrize("column", ["batch", "event_timestamp"])
def test_an_index_no_longer_lists_the_blocks_of_archived_rows(table: Table, column: str) -> None:
    key = "20260801T000000000Z"
    table.add(key, 20_000)
    table.add("20261101T000000000Z", 100, days=1)
    table.connection.execute("set enable_seqscan = off")
    value = table.connection.execute(
        sql.SQL("select {} from churn_predictions where batch = %s limit 1").format(sql.Identifier(column)), (key,)
    ).fetchone()
    assert value is not None
    query = sql.SQL("explain (analyze, format json) select from churn_predictions where {} = %s").format(
        sql.Identifier(column)
    )

    def blocks() -> int:
        plan = table.connection.execute(query, value).fetchone()
        assert plan is not None
        return int(plan[0][0]["Plan"]["Lossy Heap Blocks"])

    before = blocks()
    table.archive()

    assert before > 200
    assert blocks() < before / 2


def test_only_one_session_archives(table: Table, database: str) -> None:
    with (
        psycopg.connect(database, autocommit=True) as other,
        archive_lock(table.connection) as first,
        archive_lock(other) as second,
    ):
        assert (first, second) == (True, False)
    with archive_lock(table.connection) as again:
        assert again
