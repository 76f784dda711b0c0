"""The rows of one customer in the files of assets: frames of customers, scores, and rows that broke a rule."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from churn_platform.decoding.named_customers import named_customers
from churn_platform.files.artifacts import (
    ASSETS,
    find_files,
    join,
    read_bytes,
    reading_ranges,
    write_bytes,
    writing_large,
)
from churn_platform.files.parquet import write_frames
from churn_platform.files.stored_frame import StoredFrame
from churn_platform.operations.erasure.mentions import Mentions
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.reader import QUARANTINE_COLUMNS

VALUES: Final = "values"
"""Column of quarantined rows: their texts as JSON."""


@dataclass(frozen=True)
class StoredFile:
    """A file with rows of the customer.

    Attributes:
        uri: its path or address.
        rows: the rows, by column.
    """

    uri: str
    rows: list[dict[str, object]]


def find(root: str, mentions: Mentions) -> list[StoredFile]:
    """Return the files below the artifacts root's folder of assets that hold rows of the customer, with these rows."""
    found = []
    for file in find_files(join(root, ASSETS)):
        rows = _rows_of(file.uri, mentions)
        if rows:
            found.append(StoredFile(file.uri, rows))
    return found


def customers(root: str, schema: CustomerSchema) -> set[int | str]:
    """Return the ids in the files below the artifacts root's folder of assets."""
    found: set[int | str] = set()
    for file in find_files(join(root, ASSETS)):
        if file.uri.endswith(".csv"):
            for line in _read_csv(file.uri):
                found |= _customers_of_row(line, schema)
        elif file.uri.endswith(".parquet"):
            with reading_ranges(file.uri) as source:
                names = set(pq.read_schema(source).names)
                ids = sorted(names & {"customer_id", schema.id})
                source.seek(0)
                table = pq.read_table(source, columns=ids or sorted(names & {VALUES}))
            for name in table.column_names:
                values = table.column(name).unique().drop_null().to_pylist()
                if ids:
                    found.update(values)
                else:
                    for each in values:
                        found |= named_customers(each.encode(), schema)
    return found


def _customers_of_row(row: dict[str, str], schema: CustomerSchema) -> set[int | str]:
    """Return the customers that a line of a CSV file is about."""
    found = named_customers(row.get(VALUES, "").encode(), schema)
    for name in ("customer_id", schema.id):
        if row.get(name):
            found |= named_customers(row[name].encode(), schema)
    return found


def erase(file: StoredFile, mentions: Mentions) -> None:
    """Replace a file by one without the rows of the customer. Readers see the one or the other.

    Only the rows of one row group are in memory.
    """
    if file.uri.endswith(".csv"):
        lines = _read_csv(file.uri)
        kept = [line for line in lines if not mentions.names(line)]
        write_bytes(file.uri, _as_csv(kept))
        return
    stored = StoredFrame(file.uri)
    with writing_large(file.uri) as target:
        write_frames((_without(rows, mentions) for rows in stored.blocks()), target, stored.attrs)


def _without(rows: pd.DataFrame, mentions: Mentions) -> pd.DataFrame:
    """Return the rows that are not about the customer."""
    return rows.loc[~_are_of(lambda name: rows[name], set(map(str, rows.columns)), mentions)]


def _rows_of(uri: str, mentions: Mentions) -> list[dict[str, object]]:
    if uri.endswith(".csv"):
        return [dict(line) for line in _read_csv(uri) if mentions.names(line)]
    if not uri.endswith(".parquet"):
        return []
    with reading_ranges(uri) as file:
        names = set(pq.read_schema(file).names)
        wanted = names & {"customer_id", mentions.schema.id, VALUES}
        if not wanted:
            return []
        file.seek(0)
        keys = pq.read_table(file, columns=sorted(wanted)).to_pandas()
        are_of = _are_of(lambda name: keys[name], wanted, mentions)
        if not are_of.any():
            return []
    rows = StoredFrame(uri, objects=True).where_rows(are_of)
    plain: list[dict[str, object]] = json.loads(rows.to_json(orient="records", date_format="iso"))
    return plain


def _are_of(column: Callable[[str], pd.Series], names: set[str], mentions: Mentions) -> NDArray[np.bool_]:
    """Return which rows of a frame are about the customer, shape (n,)."""
    found: NDArray[np.bool_] | None = None
    for name in sorted(names & {"customer_id", mentions.schema.id}):
        values = column(name)
        same = (values == mentions.customer_id).to_numpy(np.bool_)
        found = same if found is None else found | same
    if found is None and VALUES in names:
        found = np.array([mentions.names({VALUES: each}) for each in column(VALUES).tolist()], np.bool_)
    return np.zeros(0, np.bool_) if found is None else found


def _read_csv(uri: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_bytes(uri).decode("utf-8"), newline="")))


def _as_csv(lines: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, QUARANTINE_COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()
