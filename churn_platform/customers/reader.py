"""Reading a customers file into a typed frame."""

import csv
import hashlib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from churn_platform.customers.exceptions import (
    CustomersFileMissingError,
    EmptyCustomersFileError,
    HeaderError,
    MalformedFileError,
    WrongValueError,
)
from churn_platform.customers.schema import COLUMNS, OTHER_NAMES, Column

GAPS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")  # in a text column only the empty value is a gap
WHOLE = r"^-?[0-9]{1,15}(\.0+)?$"  # 619, and 619.0 as pandas writes a column that once had gaps
NUMBER = r"^-?[0-9]{1,15}(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$"
ZERO_DECIMALS = r"\.0+$"
LONGEST_QUOTE = 60  # characters of a wrong value in a message
NO_FILE_REMEDY = "Make one with 'churn data generate', or name yours in CHURN_RAW_CSV."
MUST_BE_CSV = "The file must be comma-separated text: export it again with commas between the values."


def read_customers(path: str | Path) -> pd.DataFrame:
    """The customers in a CSV file, typed.

    Reads the bank's file, files of `write_customers`, and the original public file, whose `Surname` becomes `Lastname`.
    Columns may stand in any order, others are ignored, and names may be absent: they feed no feature.

    Values are typed, not judged: an Age of 17 or a Geography of Italy is read, and the asset checks say what is out of
    range. A gap is NaN in a number and None in a text; whole numbers cannot have gaps.

    Args:
        path: a comma-separated UTF-8 file with a header.

    Returns:
        n x 15, the columns of `schema.COLUMNS` in their order: whole numbers int64, Age and money float64, texts
        object.

    Raises:
        CustomersFileError: the file is missing, empty or malformed, the header lacks a column or has one twice, or a
            value is not of its column's type.
    """
    file = Path(path)
    header = _header(file)
    sources = _sources(file, header)
    table = _read_as_text(file, sources, len(header))
    if not table.num_rows:
        raise EmptyCustomersFileError(
            f"{file} has a header and no customers. Expected one row per customer.", remedy=NO_FILE_REMEDY
        )
    rows, typed = table.num_rows, {}
    for column in COLUMNS:
        if column.name not in sources:
            typed[column.name] = pd.Series([None] * rows, dtype=object)
            continue
        position = str(sources[column.name])
        typed[column.name] = _typed(file, table.column(position), column)
        table = table.drop_columns(position)  # a number takes less memory than its text
    return pd.DataFrame(typed, copy=False)


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(file: Path) -> list[str]:
    """Names in the file's first line."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), None)
    except FileNotFoundError:
        raise CustomersFileMissingError(f"There is no customers file at {file}.", remedy=NO_FILE_REMEDY) from None
    except OSError as error:
        raise CustomersFileMissingError(
            f"The customers file {file} cannot be opened: {error.strerror}. Expected a readable file.",
            remedy=NO_FILE_REMEDY,
        ) from error
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    except csv.Error as error:
        raise MalformedFileError(
            f"{file}, line 1 is not a header of column names: {error}.", remedy=MUST_BE_CSV
        ) from error
    if not header:
        raise EmptyCustomersFileError(
            f"{file}, line 1 is empty. Expected a header with the names of the columns, then one row per customer.",
            remedy=NO_FILE_REMEDY,
        )
    return [name.strip() for name in header]


def _sources(file: Path, header: list[str]) -> dict[str, int]:
    """Position in the file of each of our columns that it has.

    Raises:
        HeaderError: a needed column is absent, or one is there twice.
    """
    wanted = {column.name for column in COLUMNS} | set(OTHER_NAMES)
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
    if len(header) == 1:
        remedy = MUST_BE_CSV
    elif renamings:
        remedy = f"Rename {', '.join(renamings)}, or add the column."
    else:
        remedy = "Add what is missing."
    needed = ", ".join(column.name for column in COLUMNS if not column.optional)
    return HeaderError(
        f"{file}, line 1 lacks the column{'' if len(missing) == 1 else 's'} {', '.join(missing)}. "
        f"It has {', '.join(header)}. Expected {needed}.",
        remedy=remedy,
    )


def _read_as_text(file: Path, sources: dict[str, int], width: int) -> pa.Table:
    """The wanted columns as texts, named by their position in the file. Blank lines are no rows.

    Raises:
        MalformedFileError: a row has more or fewer values than the header has names, or the text is not CSV or not
            UTF-8.
    """
    names = [str(position) for position in range(width)]
    try:
        return arrow_csv.read_csv(
            file,
            read_options=arrow_csv.ReadOptions(skip_rows=1, column_names=names),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=[str(position) for position in sources.values()],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise _not_utf8(file) from error
        raise _malformed_row(file, width) or MalformedFileError(f"{file}: {error}.", remedy=MUST_BE_CSV) from error


def _malformed_row(file: Path, width: int) -> MalformedFileError | None:
    """What is wrong with the first row that has not one value for each name of the header, or None if all have."""
    for line, values in _rows(file):
        if len(values) != width:
            return MalformedFileError(
                f"{file}, line {line} has {len(values)} values, the header {width} names: "
                f"{_shortened(','.join(values))}. Expected {width} values.",
                remedy="Complete or remove the line; a value with a comma needs double quotes.",
            )
    return None


def _typed(file: Path, given: pa.ChunkedArray, column: Column) -> pd.Series:
    """One column with its dtype.

    Raises:
        WrongValueError: a value is no number, or no whole one, or a whole number is missing.
    """
    trimmed = pc.utf8_trim_whitespace(given)
    gap = pc.is_in(trimmed, value_set=pa.array(GAPS if column.kind != "text" else GAPS[:1]))
    text = pc.if_else(gap, pa.scalar(None, pa.string()), trimmed)
    if column.dtype == "object":
        texts: pd.Series = text.to_pandas()  # of equal texts one object
        return texts.astype(object)
    if column.kind == "whole":
        right = pc.fill_null(pc.match_substring_regex(text, WHOLE), fill_value=False)
    else:
        right = pc.fill_null(pc.match_substring_regex(text, NUMBER), fill_value=True)
    wrong = np.flatnonzero(~right.to_numpy())
    if len(wrong):
        raise _wrong_value(file, column, given, wrong)
    if column.kind == "whole":
        return pd.Series(pc.cast(pc.replace_substring_regex(text, ZERO_DECIMALS, ""), pa.int64()).to_numpy())
    return pd.Series(pc.cast(text, pa.float64()).to_numpy())


def _wrong_value(file: Path, column: Column, given: pa.ChunkedArray, wrong: NDArray[np.intp]) -> WrongValueError:
    row = int(wrong[0])
    line = next(line for index, (line, _) in enumerate(_rows(file)) if index == row)
    value = given[row].as_py()
    kind = "a whole number" if column.kind == "whole" else "a number"
    found = f"{_shortened(value)} is not {kind}" if value.strip() else "the value is missing"
    others = f" ({len(wrong) - 1:,} more in this column)" if len(wrong) > 1 else ""
    return WrongValueError(
        f"{file}, line {line} (row {row + 1:,}), column {column.name}: {found}{others}. Expected {column.allowed}.",
        remedy="Correct the value or remove the line.",
    )


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row after the header with the line of the file that it begins on. Blank lines are no rows."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        rows = csv.reader(lines)
        next(rows)
        begin = rows.line_num + 1
        for values in rows:
            if values:
                yield begin, values
            begin = rows.line_num + 1


def _not_utf8(file: Path) -> MalformedFileError:
    return MalformedFileError(
        f"{file} holds bytes that are not UTF-8. Expected UTF-8 text.",
        remedy="Save it as UTF-8, for example with 'iconv -f latin1 -t utf-8'.",
    )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}...")
