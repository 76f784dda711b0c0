"""Files of separated values (CSV): delimiter, header, rows and the places of rows in the file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from churn_platform.schema.encodings import to_utf8
from churn_platform.schema.exceptions import EmptyCustomersFileError, MalformedFileError
from churn_platform.schema.wrong_values import MAX_EXAMPLES, MIN_FOR_ONE_CAUSE

DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
MUST_BE_TABLE: Final = (
    "The file must be text with separated values: export it with commas, semicolons or tabs between the values, or set "
    "data_set.delimiter in the customer schema."
)
QUOTES: Final = (
    "Complete or remove those lines. A value with a delimiter needs double quotes, and a double quote needs a closing "
    "one."
)
NO_ROWS_REMEDY: Final = "Generate one with 'churn data generate', or set CHURN_RAW_CSV to the path of yours."
BATCHES: Final = 32  # of a block, each made of 1 MB of text: fewer cost time, more cost memory
SMALL_BATCHES: Final = 4  # the same, for a file that is scored in as little memory as possible
READ_BYTES: Final = 1024 * 1024
MAX_SEPARATOR_LINE: Final = 1_000  # bytes; the line has the delimiters of the other lines behind it, at most
_SEPARATOR_LINE: Final = re.compile(rb"\"?sep=(.)\"?[,;\t|]*\r?\n", re.IGNORECASE)


@dataclass(frozen=True)
class MalformedRow:
    """A row with more or fewer values than the header has names: its number, from 0, its line, from 1, its width."""

    row: int
    line: int
    width: int


@dataclass(frozen=True)
class NumberedBlock:
    """Rows of a file.

    Attributes:
        texts: the well-formed ones; columns are named by their position in the file.
        numbers: shape (n,), their numbers in the file, from 1, malformed rows counted.
        malformed: rows between them that do not fit the header. Their lines are unknown, and 0.
    """

    texts: pa.Table
    numbers: NDArray[np.int64]
    malformed: list[MalformedRow]


@dataclass(frozen=True)
class CsvFile:
    """A file of separated values.

    Attributes:
        name: its name, for error messages.
        content: its text in UTF-8, or the file that has it, which is then read in blocks.
        detected: what was detected, as text.
        delimiter: the character between values.
        header: the names in its header.
        lines_above: number of lines of the header, and of a line `sep=` above it.
    """

    name: str
    content: bytes | Path
    detected: str
    delimiter: str
    header: list[str]
    lines_above: int

    @property
    def header_place(self) -> str:
        """Where the header is."""
        return f"line {self.lines_above}"

    @property
    def unreadable(self) -> dict[str, str]:
        """The columns whose values are no texts: none."""
        return {}

    @classmethod
    def open(
        cls, name: str, content: bytes | Path, *, known: Iterable[str], delimiter: str = "", encoding: str = ""
    ) -> CsvFile:
        """Return the file with these bytes.

        Args:
            name: its name, for error messages.
            content: its bytes; or a file of UTF-8 text without a byte order mark, which may be larger than memory.
            known: names that its header may have, by which the delimiter is detected.
            delimiter: the delimiter; empty to detect it.
            encoding: the encoding, as Python names it; empty to detect it. Of a file, the one that it had before it
                became UTF-8, as `detected` is to show it.

        Raises:
            MalformedFileError: it is not text, or has no header.
            EmptyCustomersFileError: its first line is empty.
        """
        text: bytes | Path
        text, encoding_shown = (
            (content, encoding or "UTF-8") if isinstance(content, Path) else to_utf8(name, content, encoding=encoding)
        )
        with _opened(text) as opened:
            given = _SEPARATOR_LINE.match(opened.readline(MAX_SEPARATOR_LINE))
        above = 1 if given else 0
        delimiter = delimiter or (given[1].decode(errors="replace") if given else _delimiter(text, known))
        header, lines = _header(name, text, delimiter, above)
        if not any(header):
            raise EmptyCustomersFileError(
                f"{name}, line {above + 1} is empty. Expected a header with the names of the columns, then one row per "
                f"customer.",
                remedy=NO_ROWS_REMEDY,
            )
        shown = f"CSV in {encoding_shown}, separated by {DELIMITERS.get(delimiter, repr(delimiter))}"
        return cls(name, text, shown + (", named by a line 'sep='" if given else ""), delimiter, header, above + lines)

    def texts(self, positions: Iterable[int]) -> tuple[pa.Table, int]:
        """Return columns as texts, named by their position, and the number of rows that do not fit the header.

        Blank lines are ignored.

        Raises:
            MalformedFileError: the text is not CSV.
        """
        tables, skipped = zip(*self.blocks(positions), strict=True)
        return pa.concat_tables(tables), sum(skipped)

    def blocks(self, positions: Iterable[int]) -> Iterator[tuple[pa.Table, int]]:
        """Yield the rows in blocks, at least one, each as `texts` returns all of them.

        The next block is read in another thread. That all quotes are closed is known only after the last block.

        Raises:
            MalformedFileError: the text is not CSV.
        """
        wanted = [str(position) for position in positions]
        rows = skipped = 0

        def skip(_: object) -> str:
            nonlocal skipped
            skipped += 1
            return "skip"

        for block in self._tables(wanted, skip, BATCHES, use_threads=True):
            rows += block.num_rows
            yield block, 0
        if rows or skipped:
            self._require_closed_quotes(rows, skipped)
        yield pa.table({name: pa.array([], pa.string()) for name in wanted}), skipped

    def numbered_blocks(self, positions: Iterable[int]) -> Iterator[NumberedBlock]:
        """Yield the rows in small blocks, at least one, with their numbers and the malformed rows among them.

        Raises:
            MalformedFileError: the text is not CSV.
        """
        wanted = [str(position) for position in positions]
        rows = yielded = 0
        malformed: list[MalformedRow] = []

        def skip(row: arrow_csv.InvalidRow) -> str:
            # Arrow counts the lines above as one row each. It knows the number only without threads of its own.
            malformed.append(MalformedRow(row.number - self.lines_above - 1, 0, row.actual_columns))
            return "skip"

        for block in self._tables(wanted, skip, SMALL_BATCHES, use_threads=False):
            # Of a malformed row, this many well-formed ones are above. Some may belong to the next block, which is read
            # in advance.
            above = np.array([each.row - number for number, each in enumerate(malformed)], np.int64)
            places = np.arange(rows, rows + block.num_rows)
            numbers = places + 1 + np.searchsorted(above, places, side="right")
            rows += block.num_rows
            before = int(np.searchsorted(above, rows, side="left"))
            yield NumberedBlock(block, numbers, malformed[yielded:before])
            yielded = before
        if rows or malformed:
            self._require_closed_quotes(rows, len(malformed))
        empty = pa.table({name: pa.array([], pa.string()) for name in wanted})
        yield NumberedBlock(empty, np.empty(0, np.int64), malformed[yielded:])

    def _tables(
        self, wanted: list[str], skip: Callable[[arrow_csv.InvalidRow], str], batches: int, *, use_threads: bool
    ) -> Iterator[pa.Table]:
        """Yield the well-formed rows, as columns of texts, in tables of this many batches; none if there are none."""
        names = [str(position) for position in range(len(self.header))]
        try:
            reader = arrow_csv.open_csv(
                str(self.content) if isinstance(self.content, Path) else pa.BufferReader(self.content),
                read_options=arrow_csv.ReadOptions(
                    skip_rows=self.lines_above, column_names=names, use_threads=use_threads
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=skip
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), include_columns=wanted, strings_can_be_null=False
                ),
            )
            with ThreadPoolExecutor(1) as pool:
                coming = pool.submit(_next_block, reader, batches)
                while (block := coming.result()).num_rows:
                    coming = pool.submit(_next_block, reader, batches)
                    yield block
        except pa.ArrowInvalid as error:
            if "Empty CSV file" not in str(error):
                # Arrow's own message may quote the row, and with it a customer's name.
                raise self._broken("Often a double quote is not closed") from None

    @cached_property
    def malformed(self) -> list[MalformedRow]:
        """The rows that do not fit the header."""
        return [
            MalformedRow(row, line, len(values))
            for row, line, values in self._scan()
            if len(values) != len(self.header)
        ]

    def numbers(self, rows: int, skipped: int) -> NDArray[np.int64]:
        """Return the number of each well-formed row, from 1, malformed ones counted.

        Raises:
            MalformedFileError: most rows are malformed, or it is not certain which.
        """
        if not skipped:
            return np.arange(1, rows + 1)
        if len(self.malformed) != skipped:
            raise self._broken("Often a double quote is not closed")
        if mostly_malformed(rows, skipped):
            raise MalformedFileError(f"{self.name}: {self.malformed_rows()}", remedy=QUOTES)
        return np.delete(np.arange(1, rows + skipped + 1), [each.row for each in self.malformed])

    def malformed_rows(self) -> str:
        """Return a sentence about the malformed rows."""
        count, shown = len(self.malformed), self.malformed[:MAX_EXAMPLES]
        others = f" and {count - len(shown):,} more" if count > len(shown) else ""
        what = "1 row does" if count == 1 else f"{count:,} rows do"
        places = ", ".join(f"line {each.line:,} has {each.width} values" for each in shown)
        return f"{what} not fit the header of {len(self.header)} names: {places}{others}."

    def locate(self, wanted: Iterable[int], id_position: int, id_name: str) -> dict[int, str]:
        """Return the locations of well-formed rows, with the customer's id if it is a number.

        Args:
            wanted: numbers of well-formed rows, from 0.
            id_position: position of the id in a row.
            id_name: name of the id's column.
        """
        found, remaining, well_formed = {}, set(wanted), 0
        for row, line, values in self._scan():
            if len(values) != len(self.header):
                continue
            if well_formed in remaining:
                customer = values[id_position].strip()  # in a row with shifted values this may be a name
                known = f", {id_name} {customer}" if customer.isdecimal() else ""
                found[well_formed] = f"line {line:,} (row {row + 1:,}{known})"
            well_formed += 1
        return found

    def _require_closed_quotes(self, rows: int, skipped: int) -> None:
        """Check that no value has swallowed a row, which happens if a double quote is not closed."""
        lines = _count_lines(self.content)
        if lines == rows + skipped + self.lines_above:
            return
        for _, line, values in self._scan():
            for value in values:
                if "\n" in value and value.count(self.delimiter) >= len(self.header) - 1:
                    raise self._broken(
                        f"A value that begins in line {line:,} spans {value.count(chr(10)):,} lines: its double "
                        f"quote is not closed"
                    )

    def _broken(self, cause: str) -> MalformedFileError:
        return MalformedFileError(f"{self.name} cannot be read as separated values. {cause}.", remedy=QUOTES)

    def _scan(self) -> Iterator[tuple[int, int, list[str]]]:
        """Yield each row with its number, from 0, and its line, from 1. Blank lines are ignored."""
        # An unclosed quote makes one value of the rest of the file, which is longer than the default limit.
        size = self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)
        csv.field_size_limit(max(csv.field_size_limit(), size))
        lines = _lines(self.content)
        for _ in range(self.lines_above):
            next(lines)
        rows = csv.reader(lines, delimiter=self.delimiter)
        number, begin = 0, self.lines_above + 1
        for values in rows:
            if values:
                yield number, begin, values
                number += 1
            begin = self.lines_above + rows.line_num + 1


def mostly_malformed(rows: int, malformed: int) -> bool:
    """Return whether so many rows do not fit the header that they have one cause.

    Args:
        rows: number of well-formed rows.
        malformed: number of the others.
    """
    if not malformed:
        return False
    return not rows or (malformed >= MIN_FOR_ONE_CAUSE and malformed > rows)


def _next_block(reader: arrow_csv.CSVStreamingReader, batches: int) -> pa.Table:
    """Return the rows of the next batches; none at the end of the file."""
    return pa.Table.from_batches(islice(reader, batches), reader.schema)


def _header(name: str, text: bytes | Path, delimiter: str, above: int) -> tuple[list[str], int]:
    """Return the names in the header, and its number of lines."""
    lines = _lines(text)
    for _ in range(above):
        next(lines)
    try:
        rows = csv.reader(lines, delimiter=delimiter)
        names = next(rows, [])
    except (csv.Error, TypeError) as error:
        raise MalformedFileError(
            f"{name}, line {above + 1} is not a header of column names: {error}.", remedy=MUST_BE_TABLE
        ) from None
    return [each.strip() for each in names], rows.line_num


def _delimiter(text: bytes | Path, known: Iterable[str]) -> str:
    """Return the delimiter by which the header has most known names, and of several such the most names."""
    names = set(known)

    def score(delimiter: str) -> tuple[int, int]:
        try:
            header = next(csv.reader(_lines(text), delimiter=delimiter), [])
        except csv.Error:
            return (0, 0)
        return sum(name.strip() in names for name in header), len(header)

    return max(DELIMITERS, key=score)  # of equal ones the first


def _opened(text: bytes | Path) -> BinaryIO:
    return text.open("rb") if isinstance(text, Path) else io.BytesIO(text)


def _lines(text: bytes | Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(_opened(text), encoding="utf-8", errors="replace", newline="")


def _count_lines(text: bytes | Path) -> int:
    """Return the number of lines; a last one without a line feed counts."""
    lines, last = 0, b""
    with _opened(text) as opened:
        while chunk := opened.read(READ_BYTES):
            lines, last = lines + chunk.count(b"\n"), chunk[-1:]
    return lines + (last != b"\n")
