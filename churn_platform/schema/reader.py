"""Reading a customers file into a typed frame. The file is read once: what is hashed is what was parsed."""

import csv
import hashlib
import io
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from churn_platform.schema.columns import COLUMNS, CUSTOMER_ID, MISSING_TEXTS, OTHER_NAMES, Column
from churn_platform.schema.encodings import not_utf8, require_text
from churn_platform.schema.exceptions import (
    CustomersFileError,
    CustomersFileMissingError,
    EmptyCustomersFileError,
    HeaderError,
    MalformedFileError,
    WrongValueError,
)
from churn_platform.schema.wrong_values import EXAMPLES, WrongValues, described, rows_to_place

WHOLE = r"^-?[0-9]+(\.0+)?$"  # 619, and 619.0 as pandas writes a column that once had gaps
NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
ZERO_DECIMALS = r"\.0+$"
LEADING_ZEROS = r"^(-?)0+([0-9])"
NAMES_OF_A_HEADER = 2  # fewer, and the line may be a customer's, one of whose values happens to be such a word
SURELY_INT64 = 18  # digits; of 19 only some numbers fit
LONGEST_INT64 = 20  # characters, the sign among them
INT64 = range(-(2**63), 2**63)
NO_FILE_REMEDY = "Make one with 'churn data generate', or name yours in CHURN_RAW_CSV."
QUOTES = (
    "Complete or remove those lines; a value with a comma needs double quotes, and a double quote needs another that "
    "closes it."
)
MUST_BE_CSV = "The file must be comma-separated text: export it again with commas between the values."


@dataclass(frozen=True)
class CustomersFile:
    """A customers file as it was when it was read.

    Attributes:
        customers: n x 15, the columns of `schema.COLUMNS` in their order: whole numbers int64, Age and money float64,
            texts object.
        sha256: of the very bytes that the customers were parsed from, in hexadecimal.
        size_bytes: how many those are.
        modified: when the file was last written.
    """

    customers: pd.DataFrame
    sha256: str
    size_bytes: int
    modified: datetime


def load_customers(path: str | Path) -> CustomersFile:
    """Read a customers file once: its customers, typed, and the identity of the bytes that they come from.

    Reads the bank's file, files of `write_customers`, and the original public file, whose `Surname` becomes `Lastname`.
    Columns may stand in any order, others are ignored, and names and RowNumber may be absent: they feed no feature.

    Values are typed, not judged: an Age of 17 or a Geography of Italy is read, and the asset checks say what is out of
    range. A gap is NaN in a number and None in a text; whole numbers cannot have gaps.

    Args:
        path: a comma-separated UTF-8 file with a header.

    Raises:
        CustomersFileError: the file is missing, empty or malformed, the header lacks a column or has one twice, or
            values are not of their column's type. It lists all such rows and values, counted.
    """
    file = Path(path)
    content, modified = _read(file)
    require_text(file, content)
    header = _header(file, content)
    sources = _sources(file, header)
    table, skipped = _read_as_text(file, content, sources, len(header))
    if not table.num_rows and not skipped:
        raise EmptyCustomersFileError(
            f"{file} has a header and no customers. Expected one row per customer.", remedy=NO_FILE_REMEDY
        )
    customers, wrong = _typed_columns(table, sources)
    if skipped or wrong:
        raise _problems(
            file, content, width=len(header), skipped=skipped, wrong=wrong, id_position=sources[CUSTOMER_ID]
        )
    return CustomersFile(customers, hashlib.sha256(content).hexdigest(), len(content), modified)


def read_customers(path: str | Path) -> pd.DataFrame:
    """The customers in a CSV file, typed: see `load_customers`."""
    return load_customers(path).customers


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, for who does not parse it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(file: Path) -> tuple[bytes, datetime]:
    """The file's bytes and when it was last written, both of the same opened file."""
    try:
        with file.open("rb") as opened:
            modified = datetime.fromtimestamp(os.fstat(opened.fileno()).st_mtime, UTC)
            return opened.read(), modified
    except FileNotFoundError:
        raise CustomersFileMissingError(f"There is no customers file at {file}.", remedy=NO_FILE_REMEDY) from None
    except OSError as error:
        raise CustomersFileMissingError(
            f"The customers file {file} cannot be opened: {error.strerror}. Expected a readable file.",
            remedy=NO_FILE_REMEDY,
        ) from error


def _header(file: Path, content: bytes) -> list[str]:
    """Names in the file's first line."""
    try:
        header = next(csv.reader(_lines(content, errors="strict")), None)
    except UnicodeDecodeError:
        raise not_utf8(file, content) from None
    except csv.Error as error:
        raise MalformedFileError(
            f"{file}, line 1 is not a header of column names: {error}.", remedy=MUST_BE_CSV
        ) from None
    if not header:
        raise EmptyCustomersFileError(
            f"{file}, line 1 is empty. Expected a header with the names of the columns, then one row per customer.",
            remedy=NO_FILE_REMEDY,
        )
    return [name.strip() for name in header]


def _sources(file: Path, header: list[str]) -> dict[str, int]:
    """Position in the file of each of our columns that is read from it.

    Raises:
        HeaderError: a needed column is absent, or one is there twice.
    """
    wanted = {column.name for column in COLUMNS if not column.counted} | set(OTHER_NAMES)
    twice = [name for name in dict.fromkeys(header) if name in wanted and header.count(name) > 1]
    if twice:
        places = [position + 1 for position, name in enumerate(header) if name == twice[0]]
        raise HeaderError(
            f"{file}, line 1 names column {twice[0]} {len(places)} times, as the columns "
            f"{', '.join(map(str, places))} of the file. Expected it once.",
            remedy="Remove or rename one of them.",
        )
    sources = {name: header.index(name) for name in wanted if name in header}
    for other, name in OTHER_NAMES.items():
        if other in sources:
            sources.setdefault(name, sources[other])
            del sources[other]
    missing = [column.name for column in COLUMNS if not column.optional and column.name not in sources]
    if missing:
        raise _missing_columns(file, header, missing)
    return sources


def _missing_columns(file: Path, header: list[str], missing: list[str]) -> HeaderError:
    lowered = {name.lower(): name for name in header}
    alike = {name: get_close_matches(name.lower(), lowered, n=1, cutoff=0.8) for name in missing}
    renamings = [f"'{lowered[found[0]]}' to {name}" for name, found in alike.items() if found]
    needed = ", ".join(column.name for column in COLUMNS if not column.optional)
    words = set(re.split(r"[^a-z]+", " ".join(header).lower()))
    known = sum(column.name.lower() in words for column in COLUMNS) + len(renamings)
    if known < NAMES_OF_A_HEADER:
        return HeaderError(
            f"{file}, line 1 is no header with the columns' names; its {len(header)} values are not shown, because "
            f"they may be a customer's. Expected {needed}.",
            remedy="Add the line with the names of the columns, separated by commas, at the top of the file.",
        )
    if len(header) == 1:
        remedy = MUST_BE_CSV
    elif renamings:
        remedy = f"Rename {', '.join(renamings)}, or add the column."
    else:
        remedy = "Add what is missing."
    return HeaderError(
        f"{file}, line 1 lacks the column{'' if len(missing) == 1 else 's'} {', '.join(missing)}. "
        f"It has {', '.join(header)}. Expected {needed}.",
        remedy=remedy,
    )


def _read_as_text(file: Path, content: bytes, sources: dict[str, int], width: int) -> tuple[pa.Table, int]:
    """The wanted columns as texts, named by their position in the file, and how many rows do not fit the header.

    Blank lines are no rows.

    Raises:
        MalformedFileError: the text is not CSV or not UTF-8.
    """
    names = [str(position) for position in range(width)]
    skipped = 0

    def skip(_: object) -> str:
        nonlocal skipped
        skipped += 1
        return "skip"

    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(content),
            read_options=arrow_csv.ReadOptions(skip_rows=1, column_names=names),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=[str(position) for position in sources.values()],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise not_utf8(file, content) from None
        # Arrow's own text may quote the row, and with it the customer's name.
        raise MalformedFileError(
            f"{file} cannot be read as comma-separated text: often a double quote is opened and never closed.",
            remedy=MUST_BE_CSV,
        ) from None
    return table, skipped


def _typed_columns(table: pa.Table, sources: dict[str, int]) -> tuple[pd.DataFrame, list[WrongValues]]:
    """The columns with their dtypes, and the values that have none; columns with such values are left out."""
    rows, typed, wrong = table.num_rows, {}, []
    for column in COLUMNS:
        if column.name not in sources:
            absent = np.arange(1, rows + 1) if column.counted else [None] * rows
            typed[column.name] = pd.Series(absent, dtype=column.dtype)
            continue
        position = str(sources[column.name])
        values = _typed(table.column(position), column)
        if isinstance(values, WrongValues):
            wrong.append(values)
        else:
            typed[column.name] = values
        if not wrong:
            table = table.drop_columns(position)  # a number takes less memory than its text
    return pd.DataFrame(typed, copy=False), wrong


def _typed(given: pa.ChunkedArray, column: Column) -> pd.Series | WrongValues:
    """One column with its dtype, or what is wrong with it: no number, no whole one, or a whole number is missing."""
    trimmed = pc.utf8_trim_whitespace(given)
    gap = pc.is_in(trimmed, value_set=pa.array([text for text in MISSING_TEXTS if column.is_missing(text)]))
    text = pc.if_else(gap, pa.scalar(None, pa.string()), trimmed)
    if column.dtype == "object":
        texts: pd.Series = text.to_pandas()  # of equal texts one object
        return texts.astype(object)
    if column.kind == "whole":
        right = pc.fill_null(pc.match_substring_regex(text, WHOLE), fill_value=False).to_numpy()
        text = pc.replace_substring_regex(text, ZERO_DECIMALS, "")
        if (pc.max(pc.utf8_length(text)).as_py() or 0) > SURELY_INT64:
            text = pc.replace_substring_regex(text, LEADING_ZEROS, r"\1\2")
        right &= _fits_int64(text, right)
    else:
        right = pc.fill_null(pc.match_substring_regex(text, NUMBER), fill_value=True).to_numpy()
    wrong = np.flatnonzero(~right)
    if len(wrong):
        filled = len(gap) - int(pc.sum(gap).as_py())
        return WrongValues(column, wrong, pa.concat_arrays(given.take(pa.array(wrong)).chunks), filled)
    return pd.Series(pc.cast(text, pa.int64() if column.kind == "whole" else pa.float64()).to_numpy())


def _fits_int64(digits: pa.ChunkedArray, whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each of the whole numbers, without leading zeros, is one of 64 bits. Shape (n,)."""
    fits: NDArray[np.bool_] = pc.fill_null(
        pc.less_equal(pc.utf8_length(digits), SURELY_INT64), fill_value=True
    ).to_numpy()
    fits |= ~whole
    for row in np.flatnonzero(~fits).tolist():
        number = digits[row].as_py()
        fits[row] = len(number) <= LONGEST_INT64 and int(number) in INT64
    return fits


def _problems(
    file: Path, content: bytes, *, width: int, skipped: int, wrong: list[WrongValues], id_position: int
) -> CustomersFileError:
    """All that is wrong with the rows of a file, in one error."""
    found = _scan(content, width, rows_to_place(wrong), id_position)
    lines, remedies = described(wrong, found.rows, found.places)
    if not skipped:
        return WrongValueError(_listed(file, lines), remedy=" ".join(remedies))
    others = f" and {skipped - len(found.malformed):,} more" if skipped > len(found.malformed) else ""
    count = "1 row does" if skipped == 1 else f"{skipped:,} rows do"
    malformed = f"{count} not fit the header of {width} names: {', '.join(found.malformed)}{others}."
    return MalformedFileError(
        _listed(file, [malformed, *lines]),
        remedy=" ".join([QUOTES, *remedies]),
    )


def _listed(file: Path, lines: list[str]) -> str:
    return f"{file}: {lines[0]}" if len(lines) == 1 else f"{file}:\n- " + "\n- ".join(lines)


@dataclass
class _Scan:
    """What an error names: the first malformed rows, how many rows are well-formed, and where some of those are."""

    malformed: list[str]
    rows: int
    places: dict[int, str]


def _scan(content: bytes, width: int, wanted: list[int], id_position: int) -> _Scan:
    """Find the lines of the file that an error names.

    Args:
        content: of the file.
        width: how many values a row should have.
        wanted: numbers of rows with that many, from 0, in order.
        id_position: of CustomerId in a row.
    """
    found, sought = _Scan([], 0, {}), set(wanted)
    # A quote that is never closed makes one value of all that follows: longer than the usual limit, which would raise.
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    rows = csv.reader(_lines(content, errors="replace"))
    next(rows)
    begin = rows.line_num + 1
    for values in rows:
        if len(values) == width:
            if found.rows in sought:
                customer = values[id_position].strip()  # in a row that has shifted this may be the name
                known = f", CustomerId {customer}" if customer.isdecimal() else ""
                found.places[found.rows] = f"line {begin:,} (row {found.rows + 1:,}{known})"
            found.rows += 1
        elif values and len(found.malformed) < EXAMPLES:  # a blank line is no row
            found.malformed.append(f"line {begin:,} has {len(values)} values")
        begin = rows.line_num + 1
    return found


def _lines(content: bytes, *, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors=errors, newline="")
