"""Reading a customers file into a typed frame. The file is read once, so the hash is that of the parsed bytes."""

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
from churn_platform.schema.wrong_values import MAX_EXAMPLES, WrongValues, describe, rows_to_locate

WHOLE = r"^-?[0-9]+(\.0+)?$"  # 619, and 619.0 as pandas writes a column that once had missing values
NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
ZERO_DECIMALS = r"\.0+$"
LEADING_ZEROS = r"^(-?)0+([0-9])"
MIN_HEADER_NAMES = 2  # with fewer known names, the line may be a customer with such a word among the values
INT64_SAFE_DIGITS = 18  # of 19 digits only some numbers fit
MAX_INT64_LENGTH = 20  # characters, including the sign
INT64 = range(-(2**63), 2**63)
NO_FILE_REMEDY = "Generate one with 'churn data generate', or set CHURN_RAW_CSV to the path of yours."
QUOTES = (
    "Complete or remove those lines. A value with a comma needs double quotes, and a double quote needs a closing one."
)
MUST_BE_CSV = "The file must be comma-separated text: export it again with commas between the values."


@dataclass(frozen=True)
class CustomersFile:
    """A customers file at the time when it was read.

    Attributes:
        customers: n x 15, in the order of `schema.columns.COLUMNS`: whole numbers int64, Age and money float64,
            texts object.
        sha256: hexadecimal SHA-256 of the bytes that the customers were parsed from.
        size_bytes: number of those bytes.
        modified: when the file was last modified.
    """

    customers: pd.DataFrame
    sha256: str
    size_bytes: int
    modified: datetime


def load_customers(path: str | Path) -> CustomersFile:
    """Read a customers file once and return its typed customers with the hash of its bytes.

    Reads the bank's file, files of `write_customers`, and the original public file, whose `Surname` becomes `Lastname`.
    Columns may have any order, unknown ones are ignored, and names and RowNumber may be missing: no feature needs them.

    Values are typed but not validated: an Age of 17 or a Geography of Italy is read, and the asset checks report it.
    Missing numbers are NaN and missing texts None. Whole numbers cannot be missing.

    Args:
        path: a comma-separated UTF-8 file with a header.

    Raises:
        CustomersFileError: the file is missing, empty or malformed, the header lacks a column or has one twice, or
            values do not have the type of their column. The message counts all such rows and values.
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
    """Return the typed customers of a CSV file. See `load_customers`."""
    return load_customers(path).customers


def fingerprint(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file, without parsing it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(file: Path) -> tuple[bytes, datetime]:
    """Return the bytes of the file and when it was last modified, both from one open file."""
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
    """Return the names in the first line of the file."""
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
    """Return column name -> position in the file, of the columns that are read from it.

    Raises:
        HeaderError: a required column is missing, or the header has one twice.
    """
    wanted = {column.name for column in COLUMNS if not column.counted} | set(OTHER_NAMES)
    repeated = [name for name in dict.fromkeys(header) if name in wanted and header.count(name) > 1]
    if repeated:
        positions = [position + 1 for position, name in enumerate(header) if name == repeated[0]]
        raise HeaderError(
            f"{file}, line 1 names column {repeated[0]} {len(positions)} times, as the columns "
            f"{', '.join(map(str, positions))} of the file. Expected it once.",
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
    tokens = set(re.split(r"[^a-z]+", " ".join(header).lower()))
    known = sum(column.name.lower() in tokens for column in COLUMNS) + len(renamings)
    if known < MIN_HEADER_NAMES:
        return HeaderError(
            f"{file}, line 1 is not a header with the columns' names. Its {len(header)} values are not shown, because "
            f"they may be a customer's. Expected {needed}.",
            remedy="Add a first line with the names of the columns, separated by commas.",
        )
    if len(header) == 1:
        remedy = MUST_BE_CSV
    elif renamings:
        remedy = f"Rename {', '.join(renamings)}, or add the column."
    else:
        remedy = "Add the missing columns."
    return HeaderError(
        f"{file}, line 1 lacks the column{'' if len(missing) == 1 else 's'} {', '.join(missing)}. "
        f"It has {', '.join(header)}. Expected {needed}.",
        remedy=remedy,
    )


def _read_as_text(file: Path, content: bytes, sources: dict[str, int], width: int) -> tuple[pa.Table, int]:
    """Return the wanted columns as texts, named by their position, and the number of rows that do not fit the header.

    Blank lines are ignored.

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
        # Arrow's own message may quote the row, and with it a customer's name.
        raise MalformedFileError(
            f"{file} cannot be read as comma-separated text. Often a double quote is not closed.",
            remedy=MUST_BE_CSV,
        ) from None
    return table, skipped


def _typed_columns(table: pa.Table, sources: dict[str, int]) -> tuple[pd.DataFrame, list[WrongValues]]:
    """Return the typed columns, and the wrong values of columns that cannot be typed."""
    rows, typed, wrong = table.num_rows, {}, []
    for column in COLUMNS:
        if column.name not in sources:
            default = np.arange(1, rows + 1) if column.counted else [None] * rows
            typed[column.name] = pd.Series(default, dtype=column.dtype)
            continue
        position = str(sources[column.name])
        values = _typed(table.column(position), column)
        if isinstance(values, WrongValues):
            wrong.append(values)
        else:
            typed[column.name] = values
        if not wrong:
            table = table.drop_columns(position)  # free the text, which takes more memory than the numbers
    return pd.DataFrame(typed, copy=False), wrong


def _typed(texts: pa.ChunkedArray, column: Column) -> pd.Series | WrongValues:
    """Return one column with its dtype, or its values that are not numbers, not whole, or missing whole numbers."""
    trimmed = pc.utf8_trim_whitespace(texts)
    missing = pc.is_in(trimmed, value_set=pa.array([text for text in MISSING_TEXTS if column.is_missing(text)]))
    text = pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)
    if column.dtype == "object":
        series: pd.Series = text.to_pandas()  # equal texts share one object
        return series.astype(object)
    if column.kind == "whole":
        valid = pc.fill_null(pc.match_substring_regex(text, WHOLE), fill_value=False).to_numpy()
        text = pc.replace_substring_regex(text, ZERO_DECIMALS, "")
        if (pc.max(pc.utf8_length(text)).as_py() or 0) > INT64_SAFE_DIGITS:
            text = pc.replace_substring_regex(text, LEADING_ZEROS, r"\1\2")
        valid &= _fits_int64(text, valid)
    else:
        valid = pc.fill_null(pc.match_substring_regex(text, NUMBER), fill_value=True).to_numpy()
    wrong = np.flatnonzero(~valid)
    if len(wrong):
        filled = len(missing) - int(pc.sum(missing).as_py())
        return WrongValues(column, wrong, pa.concat_arrays(texts.take(pa.array(wrong)).chunks), filled)
    return pd.Series(pc.cast(text, pa.int64() if column.kind == "whole" else pa.float64()).to_numpy())


def _fits_int64(digits: pa.ChunkedArray, whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether each whole number, without leading zeros, fits into 64 bits. Shape (n,)."""
    fits: NDArray[np.bool_] = pc.fill_null(
        pc.less_equal(pc.utf8_length(digits), INT64_SAFE_DIGITS), fill_value=True
    ).to_numpy()
    fits |= ~whole
    for row in np.flatnonzero(~fits).tolist():
        number = digits[row].as_py()
        fits[row] = len(number) <= MAX_INT64_LENGTH and int(number) in INT64
    return fits


def _problems(
    file: Path, content: bytes, *, width: int, skipped: int, wrong: list[WrongValues], id_position: int
) -> CustomersFileError:
    """Return one error for all that is wrong with the rows of a file."""
    found = _scan(content, width, rows_to_locate(wrong), id_position)
    lines, remedies = describe(wrong, found.rows, found.locations)
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
    """The first malformed rows, the number of well-formed rows, and the location of some of them, for an error."""

    malformed: list[str]
    rows: int
    locations: dict[int, str]


def _scan(content: bytes, width: int, wanted: list[int], id_position: int) -> _Scan:
    """Find the lines of the file that an error names.

    Args:
        content: the bytes of the file.
        width: number of values that a row should have.
        wanted: numbers of well-formed rows to locate, from 0, in order.
        id_position: position of CustomerId in a row.
    """
    found, remaining = _Scan([], 0, {}), set(wanted)
    # An unclosed quote makes one value of the rest of the file, which is longer than the default limit.
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    rows = csv.reader(_lines(content, errors="replace"))
    next(rows)
    begin = rows.line_num + 1
    for values in rows:
        if len(values) == width:
            if found.rows in remaining:
                customer = values[id_position].strip()  # in a row with shifted values this may be a name
                known = f", CustomerId {customer}" if customer.isdecimal() else ""
                found.locations[found.rows] = f"line {begin:,} (row {found.rows + 1:,}{known})"
            found.rows += 1
        elif values and len(found.malformed) < MAX_EXAMPLES:  # blank lines are ignored
            found.malformed.append(f"line {begin:,} has {len(values)} values")
        begin = rows.line_num + 1
    return found


def _lines(content: bytes, *, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors=errors, newline="")
