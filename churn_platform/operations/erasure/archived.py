"""The predictions of one customer in the files of the archive: reading them, and rewriting the files without them.

A file is never changed while the ledger names it: the other rows are written to a successor, the transaction that
subtracts the customer's rows from the sums makes the ledger name it, and then the former file is deleted. So an
interrupted erasure subtracts rows once, whichever file it left behind.
"""

import io
import re
from typing import Any, Final

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from churn_platform.archive import FOLDER
from churn_platform.database import churn_predictions, stream_batches
from churn_platform.files.artifacts import delete_file, exists, find_files, join, read_bytes, reading, write_bytes
from churn_platform.operations.erasure.tables import ArchivedRows
from churn_platform.operations.exceptions import ErasureError

# <first batch>.parquet, and after erasures <first batch>.<number>.parquet.
_NAME: Final = re.compile(r"(?P<base>.*?)(?:\.(?P<number>[0-9]+))?\.parquet")
_CUSTOMER: Final = "customer_id"


def count(root: str, customer_id: int | str) -> int:
    """Return how many rows of all archive files are about a customer."""
    return sum(_count(file.uri, customer_id) for file in find_files(join(root, *FOLDER)) if _is_archive(file.uri))


def read(root: str, customer_id: int | str) -> list[dict[str, Any]]:
    """Return the archived predictions of a customer as rows, by column."""
    rows = []
    for file in find_files(join(root, *FOLDER)):
        if _is_archive(file.uri) and _count(file.uri, customer_id):
            table = _read(file.uri)
            rows += table.filter(_is_of(table, customer_id)).to_pylist()
    return rows


def separate(connection: psycopg.Connection, customer_id: int | str) -> ArchivedRows:
    """Write successors of the files that hold rows of a customer, and return these rows.

    Args:
        connection: to the platform's database, in a session that holds advisory_locks.archive_lock().
        customer_id: of the customer.

    Raises:
        ErasureError: a successor does not hold what was written to it.
    """
    columns = [column.name for column in churn_predictions.stored_columns(connection)]
    found: list[pa.Table] = []
    files: dict[str, str] = {}
    for file, is_complete in stream_batches.archive_files(connection).items():
        source = _latest(file) if is_complete else None
        if source is None:
            continue
        if not _count(source, customer_id):
            if source != file:  # the ledger is of before another erasure: it has to name the file that exists
                files[file] = source
            continue
        table = _read(source)
        is_of = _is_of(table, customer_id)
        successor = _successor(source)
        _write(successor, table.filter(pc.invert(is_of)))
        found.append(table.filter(is_of).select([name for name in columns if name in table.column_names]))
        files[file] = successor
    if not found:
        return ArchivedRows(files=files)
    rows = pa.concat_tables(found, promote_options="default")
    values = zip(*(column.to_pylist() for column in rows.columns), strict=True)
    return ArchivedRows(columns=rows.column_names, rows=list(values), files=files)


def remove_former(connection: psycopg.Connection, root: str, customer_id: int | str) -> int:
    """Delete the files that have successors, and erase the customer from files that the ledger does not rely on.

    Those are files of an archiving that was interrupted, whose rows are still in the table, and files of an erasure
    that was interrupted.

    Returns:
        How many files were deleted or rewritten.
    """
    # A file whose successor is not there is the only one that holds the rows of all other customers.
    complete = {
        _base(file)
        for file, is_complete in stream_batches.archive_files(connection).items()
        if is_complete and exists(file)
    }
    named = set(stream_batches.archive_files(connection))
    changed = 0
    for file in find_files(join(root, *FOLDER)):
        if not _is_archive(file.uri):
            continue
        if file.uri not in named and _base(file.uri) in complete:
            delete_file(file.uri)
            changed += 1
        elif _count(file.uri, customer_id):
            table = _read(file.uri)
            _write(file.uri, table.filter(pc.invert(_is_of(table, customer_id))))
            changed += 1
    return changed


def has_successor(file: str) -> bool:
    """Return whether an erasure has replaced a file by another that exists: the same rows without a customer."""
    return any(_number(each) > _number(file) for each in _others(file))


def _latest(file: str) -> str | None:
    """Return the file, or its latest successor if it is gone: an older state of the database may name it."""
    if exists(file):
        return file
    return max(_others(file), key=_number, default=None)


def _others(file: str) -> list[str]:
    """Return the files that exist of those that succeeded one another, this one included."""
    folder = file.rpartition("/")[0]
    return [each.uri for each in find_files(folder) if _is_archive(each.uri) and _base(each.uri) == _base(file)]


def _successor(file: str) -> str:
    return f"{_base(file)}.{_number(file) + 1}.parquet"


def _base(file: str) -> str:
    match = _NAME.fullmatch(file)
    return file if match is None else match["base"]


def _number(file: str) -> int:
    match = _NAME.fullmatch(file)
    return int((match and match["number"]) or 0)


def _is_archive(uri: str) -> bool:
    return uri.endswith(".parquet")


def _count(uri: str, customer_id: int | str) -> int:
    """Return how many rows of a file are about a customer. Only one column of it is read."""
    with reading(uri) as file:
        table = pq.read_table(file, columns=[_CUSTOMER])
    return int(pc.sum(_is_of(table, customer_id)).as_py() or 0)


def _is_of(table: pa.Table, customer_id: int | str) -> pa.ChunkedArray:
    column = table.column(_CUSTOMER)
    return pc.fill_null(pc.equal(column, pa.scalar(customer_id, column.type)), False)


def _read(uri: str) -> pa.Table:
    with reading(uri) as file:
        return pq.read_table(file)


def _write(uri: str, table: pa.Table) -> None:
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    write_bytes(uri, content.getvalue())
    if not pq.read_table(io.BytesIO(read_bytes(uri))).equals(table):
        raise ErasureError(
            f"{uri} does not hold the {table.num_rows} rows that were written to it.",
            remedy="Does anything else write to that folder? Repeat the command.",
        )
