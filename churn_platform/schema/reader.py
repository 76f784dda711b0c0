"""Reading the customers file: typed customers, and rows that break a rule of the schema apart from them.

A file is CSV, Parquet or an Excel workbook, on local disk or in S3, or a folder of such files. It is read once, so the
hash is that of the parsed bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from churn_platform.files import artifacts
from churn_platform.files.exceptions import ArtifactNotFoundError
from churn_platform.schema.columns import Column
from churn_platform.schema.csv_file import MUST_BE_TABLE, QUOTES, CsvFile
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import (
    CustomersFileMissingError,
    EmptyCustomersFileError,
    HeaderError,
    MalformedFileError,
    WrongValueError,
)
from churn_platform.schema.number_formats import Decimal
from churn_platform.schema.pieces import Pieces, all_different, joined, joined_as_categories
from churn_platform.schema.typed_columns import decimals_of, evidence_of, missing_column, typed
from churn_platform.schema.typed_files import ParquetRows, TypedFile, open_parquet, open_workbook
from churn_platform.schema.wrong_values import Finding, WrongValues, describe, findings, merged, reason, rows_to_locate

NO_FILE_REMEDY: Final = "Generate one with 'churn data generate', or set CHURN_RAW_CSV to the path of yours."
MIN_HEADER_NAMES: Final = 2  # with fewer known names, the line may be a customer with such a word among the values
SUFFIXES: Final = (".csv", ".tsv", ".psv", ".txt", ".parquet", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
"""Files of a folder that are read. `.gz` may follow."""
TYPING_THREADS: Final = 2  # each types one column of a block: more would hold more texts, and share Python's lock
QUARANTINE_COLUMNS: Final = ("file", "row", "values", "reasons")
GZIP, PARQUET, WORKBOOKS = b"\x1f\x8b", b"PAR1", (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
DECIMALS: Final[Mapping[str, str]] = {",": "decimal comma", ".": "thousands separators"}

Source = CsvFile | TypedFile


@dataclass(frozen=True)
class CustomersFile:
    """A customers file at the time when it was read.

    Attributes:
        customers: one row per customer, with the schema's columns in order, each with its `dtype`; the target is 1 for
            those who left, else 0.
        quarantined: the rows that break a rule. Columns: `file`, its name; `row`, the row's number in it, from 1, below
            the header and without blank lines; `values`, a JSON object of column name -> text, without columns that
            nothing reads; `reasons`, without values, so that equal ones can be counted.
        duplicates: number of rows that were there before, value for value. They are dropped.
        detected: file name -> its format as text.
        sha256: hexadecimal SHA-256 of the bytes that the customers were parsed from; of a folder, that of the names and
            hashes of its files.
        size_bytes: number of those bytes.
        modified: when the file, or the latest of a folder, was last modified.
    """

    customers: pd.DataFrame
    quarantined: pd.DataFrame
    duplicates: int
    detected: Mapping[str, str]
    sha256: str
    size_bytes: int
    modified: datetime

    @property
    def rows(self) -> int:
        """Number of rows, quarantined ones and duplicates counted."""
        return len(self.customers) + len(self.quarantined) + self.duplicates

    @property
    def quarantined_share(self) -> float:
        """Share of the rows that are quarantined, 0..1."""
        return len(self.quarantined) / self.rows


@dataclass(frozen=True)
class Content:
    """A file that was read: its name, its bytes, and when it was last modified."""

    name: str
    content: bytes
    modified: datetime


@dataclass(frozen=True)
class _Part:
    """The rows of one file: typed customers with their row numbers, and what is quarantined."""

    name: str
    detected: str
    columns: dict[str, Pieces]
    numbers: NDArray[np.int64]
    quarantined: list[tuple[str, int, str, str]]


def load_customers(place: str | Path, schema: CustomerSchema, *, categorical: bool = False) -> CustomersFile:
    """Read a customers file, or a folder of them, once.

    Columns may have any order and unknown ones are ignored. Rows that break a rule of the schema are quarantined.
    What concerns a whole file, or most of a column, is an error: it has one cause.

    Args:
        place: a path or an s3:// address of a file or a folder.
        schema: the schema of the customers.
        categorical: whether texts that repeat are categorical columns, which take a quarter of the memory or less.
            Otherwise they have the dtype object.

    Raises:
        CustomersFileError: there is no file, it cannot be read, a required column is missing, or most values of a
            column break a rule. The message counts all such values.
    """
    parts, hashes, size, modified = [], {}, 0, datetime.min.replace(tzinfo=UTC)
    for each in read_contents(str(place)):
        parts.append(_read(each, schema))
        hashes[each.name] = hashlib.sha256(each.content).hexdigest()
        size, modified = size + len(each.content), max(modified, each.modified)
        del each  # its bytes, before the columns grow to their full size
    customers, quarantined, duplicates = _combined(parts, schema, categorical=categorical)
    if not len(customers):
        raise EmptyCustomersFileError(
            f"{place} has a header and no customers. Expected one row per customer.", remedy=NO_FILE_REMEDY
        )
    return CustomersFile(
        customers=customers,
        quarantined=pd.DataFrame(quarantined, columns=list(QUARANTINE_COLUMNS)).astype({"row": "int64"}),
        duplicates=duplicates,
        detected={each.name: each.detected for each in parts},
        sha256=combined_hash(str(place), hashes),
        size_bytes=size,
        modified=modified,
    )


def read_customers(place: str | Path, schema: CustomerSchema) -> pd.DataFrame:
    """Return the typed customers of a file. See `load_customers`."""
    return load_customers(place, schema).customers


def fingerprint(place: str | Path) -> str:
    """Return the SHA-256 of a customers file or folder, as `CustomersFile.sha256` is, without parsing it."""
    hashes = {each.name: hashlib.sha256(each.content).hexdigest() for each in read_contents(str(place))}
    return combined_hash(str(place), hashes)


def combined_hash(place: str, hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 of a customers file or folder, as `CustomersFile.sha256` is.

    Args:
        place: path or address of the file or the folder.
        hashes: name of a file -> its SHA-256, in order.
    """
    if list(hashes) == [place]:
        return hashes[place]
    lines = "".join(f"{name}\n{each}\n" for name, each in hashes.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def find_customers_files(place: str) -> dict[str, artifacts.FoundFile]:
    """Return the customers files of a place by name, in order, without reading them.

    Args:
        place: a path or an s3:// address: of a file, whose name is the place itself, or of a folder, whose files of any
            depth are named by their path in it.

    Raises:
        CustomersFileMissingError: there are none.
    """
    found = artifacts.find_files(place)
    if not found:
        raise CustomersFileMissingError(f"There is no customers file at {place}.", remedy=NO_FILE_REMEDY)
    root = place if artifacts.in_s3(place) else str(Path(place))
    if [each.uri for each in found] == [root]:
        return {place: found[0]}
    named = {each.uri.removeprefix(root.rstrip("/") + "/"): each for each in found}
    wanted = sorted(name for name in named if _is_customers_file(name))
    if not wanted:
        raise CustomersFileMissingError(
            f"The folder {place} has no customers files. Expected files that end with {', '.join(SUFFIXES)}, or with "
            f"one of them and .gz.",
            remedy="Put them there, or set CHURN_RAW_CSV to another path.",
        )
    return {name: named[name] for name in wanted}


def read_contents(place: str) -> Iterator[Content]:
    """Yield the bytes of the file, or of the files below the folder in order of their names.

    Raises:
        CustomersFileMissingError: there are none, or one cannot be opened.
    """
    if not artifacts.in_s3(place) and not Path(place).is_dir():
        yield _local(Path(place), place)  # also of a pipe, which can be read only once
        return
    for name, file in find_customers_files(place).items():
        if not artifacts.in_s3(place):
            yield _local(Path(file.uri), name)
            continue
        try:
            yield Content(name, artifacts.read_bytes(file.uri), file.modified)
        except ArtifactNotFoundError:  # deleted after it was listed
            raise CustomersFileMissingError(f"{file.uri} was deleted meanwhile.", remedy="Try again.") from None


def _local(path: Path, name: str) -> Content:
    """Return the bytes of the file and when it was last modified, both from one open file."""
    try:
        with path.open("rb") as opened:
            modified = datetime.fromtimestamp(os.fstat(opened.fileno()).st_mtime, UTC)
            return Content(name, opened.read(), modified)
    except FileNotFoundError:
        raise CustomersFileMissingError(f"There is no customers file at {path}.", remedy=NO_FILE_REMEDY) from None
    except OSError as error:
        raise CustomersFileMissingError(
            f"The customers file {path} cannot be opened: {error.strerror}. Expected a readable file.",
            remedy=NO_FILE_REMEDY,
        ) from error


def _is_customers_file(name: str) -> bool:
    hidden = any(part.startswith((".", "_")) for part in name.split("/"))
    return not hidden and name.lower().removesuffix(".gz").endswith(SUFFIXES)


def open_source(
    name: str, content: bytes, *, known: Sequence[str] = (), delimiter: str = "", encoding: str = ""
) -> Source:
    """Return a customers file of any format, by its first bytes.

    Args:
        name: the name of the file, for error messages.
        content: its bytes.
        known: names of columns, which show which delimiter or sheet it is.
        delimiter: the delimiter of CSV; empty to detect it.
        encoding: the encoding of CSV, as Python names it; empty to detect it.

    Raises:
        CustomersFileError: it is none of the formats, or is damaged.
    """
    if content.startswith(GZIP):
        try:
            unpacked = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise MalformedFileError(
                f"{name} starts like a gzip file, but cannot be unpacked: {error}.", remedy="Copy or export it again."
            ) from None
        source = open_source(name, unpacked, known=known, delimiter=delimiter, encoding=encoding)
        return replace(source, detected=f"{source.detected}, compressed with gzip")
    if content.startswith(PARQUET):
        return open_parquet(name, content)
    if content.startswith(WORKBOOKS):
        return open_workbook(name, content, known)
    return CsvFile.open(name, content, known=known, delimiter=delimiter, encoding=encoding)


def _read(file: Content, schema: CustomerSchema) -> _Part:
    """Return the typed rows of one file and its quarantined ones."""
    known = [name for column in schema.columns for name in (column.name, *column.headers)]
    source = open_source(file.name, file.content, known=known, delimiter=schema.delimiter, encoding=schema.encoding)
    sources = column_positions(source, schema)
    values, wrong, skipped, used = _typed_columns(source, sources, schema)
    rows = next(iter(values.values())).rows
    numbers = source.numbers(rows, skipped)
    if _one_cause(wrong, rows):
        raise wrong_rows_error(source, findings(wrong), rows, skipped, sources, schema)
    quarantined = [
        (
            file.name,
            each.row + 1,
            "{}",
            f"the row has {each.width} values, the header has {len(source.header)} names",
        )
        for each in (source.malformed if skipped else [])
    ]
    if wrong:
        kept = np.ones(rows, np.bool_)
        quarantined += quarantine(file.name, values, wrong, numbers, schema)
        for each in wrong:
            kept[each.rows] = False
        values, numbers = {name: each.only(kept) for name, each in values.items()}, numbers[kept]
        quarantined.sort(key=lambda each: each[1])
    shown = source.detected + "".join(f", {DECIMALS[each]}" for each in sorted(used))
    return _Part(file.name, shown, values, numbers, quarantined)


def column_positions(source: Source | ParquetRows, schema: CustomerSchema) -> dict[str, int]:
    """Return column name -> position in the file, of the columns that are read from it.

    Raises:
        HeaderError: a required column is missing, or the header has one twice.
    """
    header, sources = source.header, {}
    for column in schema.columns:
        if column.counted:
            continue
        for name in (column.name, *column.headers):
            positions = [position for position, each in enumerate(header) if each == name]
            if len(positions) > 1:
                raise HeaderError(
                    f"{source.name}, {source.header_place} names column {name} {len(positions)} times, as the columns "
                    f"{', '.join(str(position + 1) for position in positions)} of the file. Expected it once.",
                    remedy="Remove or rename one of them.",
                )
            if positions and column.name not in sources:
                sources[column.name] = positions[0]
    missing = [column.name for column in schema.columns if not column.optional and column.name not in sources]
    if missing:
        raise _missing_columns(source, schema, missing)
    return sources


def _missing_columns(source: Source | ParquetRows, schema: CustomerSchema, missing: list[str]) -> HeaderError:
    header = source.header
    lowered = {name.lower(): name for name in header}
    alike = {name: get_close_matches(name.lower(), lowered, n=1, cutoff=0.8) for name in missing}
    renamings = [f"'{lowered[found[0]]}' to {name}" for name, found in alike.items() if found]
    needed = ", ".join(column.name for column in schema.columns if not column.optional)
    text = " ".join(header).lower()
    known = sum(
        re.search(rf"(?<![^\W_]){re.escape(name.lower())}(?![^\W_])", text) is not None
        for column in schema.columns
        for name in (column.name, *column.headers)
    )
    if known + len(renamings) < MIN_HEADER_NAMES:
        return HeaderError(
            f"{source.name}, {source.header_place} is not a header with the columns' names. Its {len(header)} values "
            f"are not shown, because they may be a customer's. Expected {needed}.",
            remedy="Add a first line with the names of the columns, separated as the values are.",
        )
    if len(header) == 1:
        remedy = MUST_BE_TABLE
    elif renamings:
        remedy = f"Rename {', '.join(renamings)}, or name them in `headers` of the columns in the schema."
    else:
        remedy = "Add the missing columns, or name other headers of theirs in `headers` in the schema."
    return HeaderError(
        f"{source.name}, {source.header_place} lacks the column{'' if len(missing) == 1 else 's'} "
        f"{', '.join(missing)}. It has {', '.join(header)}. Expected {needed}.",
        remedy=remedy,
    )


def _typed_columns(
    source: Source, sources: Mapping[str, int], schema: CustomerSchema, formats: Mapping[str, Decimal] | None = None
) -> tuple[dict[str, Pieces], list[WrongValues], int, set[str]]:
    """Return the typed columns, their wrong values, the number of malformed rows, and unusual formats of numbers.

    The file is read in blocks: its texts take more memory than the customers.

    Args:
        source: the file.
        sources: column name -> position in the file.
        schema: the schema.
        formats: column name -> decimal separator; None to read numbers as plainly written, and detect the format only
            if some are not.
    """
    if formats is None and schema.decimal:
        numbers = [column.name for column in schema.columns if column.kind in ("whole", "number")]
        formats = dict.fromkeys(numbers, schema.decimal)
    columns = {column.name: Pieces() for column in schema.columns}
    wrong: dict[str, list[tuple[int, WrongValues]]] = {name: [] for name in sources}
    filled = dict.fromkeys(sources, 0)
    dates: dict[str, list[pa.ChunkedArray]] = {}
    used: set[str] = set()
    rows = malformed = 0

    def add(column: Column, texts: pa.ChunkedArray, start: int) -> bool:
        """Add typed values. Return whether all of them have the type."""
        found = typed(texts, column, decimal=None if formats is None else formats.get(column.name))
        columns[column.name].append(found.values)
        wrong[column.name] += [(start, each) for each in found.wrong]
        filled[column.name] += found.filled
        used.update({found.decimal} - {""})
        return all(each.rule is not None for each in found.wrong)

    def add_block(column: Column, block: pa.Table) -> bool:
        """Add a column's values of a block. Return whether they can be read without the formats of the whole file."""
        texts = block.column(str(sources[column.name]))
        if column.kind == "date":
            dates.setdefault(column.name, []).extend(texts.chunks)  # the others show what 03/04/2025 is
            return True
        return add(column, texts, rows) or formats is not None or column.kind not in ("whole", "number")

    read = [column for column in schema.columns if column.name in sources]
    with ThreadPoolExecutor(TYPING_THREADS) as pool:
        for block, skipped in source.blocks(sources.values()):
            malformed += skipped
            if not all(list(pool.map(add_block, read, repeat(block)))):  # a list, so that none still runs afterwards
                return _typed_columns(source, sources, schema, detect_decimals(source, sources, schema))
            rows += block.num_rows
    if not rows and not malformed:
        raise EmptyCustomersFileError(
            f"{source.name} has a header and no customers. Expected one row per customer.", remedy=NO_FILE_REMEDY
        )
    for column in schema.columns:
        if column.name in dates:
            add(column, pa.chunked_array(dates.pop(column.name), pa.string()), 0)
        elif column.name not in sources:
            missing = np.zeros(rows, np.int64) if column.counted else missing_column(column, rows)
            columns[column.name].append(missing)
    found = [each for name in columns if name in wrong for each in merged(wrong[name], filled[name])]
    return columns, found, malformed, used


def detect_decimals(
    source: Source | ParquetRows, sources: Mapping[str, int], schema: CustomerSchema
) -> dict[str, Decimal]:
    """Return the decimal separator of each column of numbers, as the values of the whole file show it."""
    return decimals_of(
        [
            evidence_of({name: table.column(str(position)) for name, position in sources.items()}, schema.by_name)
            for table, _ in source.blocks(sources.values())
        ]
    )


def _one_cause(wrong: Sequence[WrongValues], rows: int) -> bool:
    """Return whether values are wrong for one cause, such as a wrong unit of a whole column, or no row is left."""
    broken = np.zeros(rows, np.bool_)
    for each in wrong:
        broken[each.rows] = True
    return any(each.has_one_cause(rows) for each in wrong) or bool(broken.all())


def wrong_rows_error(
    source: Source | ParquetRows,
    found: Sequence[Finding],
    rows: int,
    skipped: int,
    sources: Mapping[str, int],
    schema: CustomerSchema,
) -> WrongValueError | MalformedFileError:
    """Return one error for all that is wrong with the rows of a file.

    Args:
        source: the file.
        found: its wrong values.
        rows: number of its well-formed rows.
        skipped: number of its malformed rows.
        sources: column name -> position in the file.
        schema: the schema.
    """
    locations = source.locate(rows_to_locate(found), sources[schema.id], schema.id)
    lines, remedies = describe(found, rows, locations)
    malformed = source.malformed_rows() if skipped else ""
    lines = [malformed, *lines] if malformed else lines
    text = f"{source.name}: {lines[0]}" if len(lines) == 1 else f"{source.name}:\n- " + "\n- ".join(lines)
    if malformed:
        return MalformedFileError(text, remedy=" ".join([QUOTES, *remedies]))
    return WrongValueError(text, remedy=" ".join(remedies))


def quarantine(
    file: str,
    values: Mapping[str, Any],
    wrong: Sequence[WrongValues],
    numbers: NDArray[np.int64],
    schema: CustomerSchema,
) -> list[tuple[str, int, str, str]]:
    """Return the quarantined rows: file, number, values as JSON, reasons."""
    reasons: dict[int, list[str]] = {}
    texts: dict[int, dict[str, str]] = {}
    for each in wrong:
        for kind, members in each.by_kind:
            because = reason(each.column, kind)
            for row in each.rows[members].tolist():
                reasons.setdefault(row, []).append(because)
        for row, text in zip(each.rows.tolist(), each.texts.to_pylist(), strict=True):
            texts.setdefault(row, {})[each.column.name] = text or ""
    shown = _shown(schema)
    return [
        (file, int(numbers[row]), _json(shown, values, row, texts[row]), "; ".join(reasons[row]))
        for row in sorted(reasons)
    ]


def _shown(schema: CustomerSchema) -> list[Column]:
    """Return the columns whose values a quarantined row shows: those that something reads."""
    return [column for column in schema.columns if column.missing != "ignore" and not column.counted]


def _json(columns: Sequence[Column], values: Mapping[str, Any], row: int, raw: Mapping[str, str]) -> str:
    """Return a row as JSON: texts as in the file for wrong values, of the typed values otherwise."""
    texts = {column.name: raw.get(column.name, _text(values[column.name][row])) for column in columns}
    return json.dumps(texts, ensure_ascii=False)


def _text(value: Any) -> str:  # an element of an array of any type
    if value is None or value != value or (isinstance(value, np.datetime64) and np.isnat(value)):
        return ""
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[D]"))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _combined(
    parts: Sequence[_Part], schema: CustomerSchema, *, categorical: bool
) -> tuple[pd.DataFrame, list[tuple[str, int, str, str]], int]:
    """Return the customers of all files without duplicates, what is quarantined, and the number of duplicates."""
    quarantined = [row for each in parts for row in each.quarantined]
    above = np.cumsum([0, *(len(each.numbers) + len(each.quarantined) for each in parts)])
    numbers = np.concatenate([each.numbers + start for each, start in zip(parts, above[:-1].tolist(), strict=True)])
    values: dict[str, Any] = {}  # NumPy's arrays and categories
    for column in schema.columns:
        pieces = [each.columns[column.name] for each in parts]
        categories = joined_as_categories(pieces) if categorical and column.name != schema.target else None
        values[column.name] = numbers if column.counted else joined(pieces) if categories is None else categories
    customers = pd.DataFrame(values, copy=False)
    del values
    duplicates = 0
    if not all_different(customers[schema.id].to_numpy()):
        same, conflicting = _repeated(customers, schema)
        origins = np.repeat(np.arange(len(parts)), [len(each.numbers) for each in parts])
        shown, columns = _shown(schema), {column.name: customers[column.name].to_numpy() for column in schema.columns}
        for row in conflicting.tolist():
            part = parts[origins[row]]
            number = int(numbers[row] - above[origins[row]])
            quarantined.append((part.name, number, _json(shown, columns, row, {}), _conflict(schema)))
        del columns
        duplicates = len(same)
        kept = np.ones(len(customers), np.bool_)
        kept[same], kept[conflicting] = False, False
        names = [column.name for column in schema.columns]
        customers = pd.DataFrame({name: customers.pop(name).array[kept] for name in names}, copy=False)
        order = {each.name: position for position, each in enumerate(parts)}
        quarantined.sort(key=lambda each: (order[each[0]], each[1]))
    return with_target(customers, schema), quarantined, duplicates


def quarantine_conflicting(
    file: str, customers: pd.DataFrame, numbers: NDArray[np.int64], schema: CustomerSchema
) -> list[tuple[str, int, str, str]]:
    """Return rows that have an earlier row's id and other values as quarantined rows: file, number, values, reasons.

    Args:
        file: name of their file.
        customers: the rows, typed, with the target as in the file.
        numbers: shape (n,), their numbers in the file, from 1.
        schema: of the customers.
    """
    shown, columns = _shown(schema), {column.name: customers[column.name].to_numpy() for column in schema.columns}
    return [
        (file, number, _json(shown, columns, row, {}), _conflict(schema)) for row, number in enumerate(numbers.tolist())
    ]


def _conflict(schema: CustomerSchema) -> str:
    return f"{schema.id} is that of an earlier row with other values"


def _repeated(customers: pd.DataFrame, schema: CustomerSchema) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows that an earlier row equals, and the rows with an earlier row's id and other values."""
    repeated = customers.loc[customers[schema.id].duplicated(keep=False)]
    compared = repeated[[column.name for column in schema.columns if not column.counted]]
    same = compared.duplicated(keep="first")
    conflicting = compared.loc[~same, schema.id].duplicated(keep="first")
    return same.index[same].to_numpy(), conflicting.index[conflicting].to_numpy()


def with_target(customers: pd.DataFrame, schema: CustomerSchema) -> pd.DataFrame:
    """Return the customers with 1 for those who left and 0 for the others, NaN where the target is missing."""
    given = customers[schema.target]
    left = (given == schema.left).astype("int64")
    customers[schema.target] = left.where(given.notna()) if given.isna().any() else left
    return customers
