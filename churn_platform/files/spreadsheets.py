"""Tables for people: CSV and Excel files in which no text can become a formula. Knows nothing of what the rows mean.

A spreadsheet runs a cell that begins like a formula, and a formula can read other cells and send them elsewhere (CSV
injection, https://owasp.org/www-community/attacks/CSV_Injection). A customer's id or name may come from that customer.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING, BinaryIO, Final

from churn_platform.errors import PlatformError

if TYPE_CHECKING:
    from xlsxwriter.worksheet import Worksheet

SHEET_ROWS: Final = 1_048_576
"""Rows of an Excel sheet, its header included."""
MAX_CELL_TEXT: Final = 32_767
"""Characters that an Excel cell holds."""
# The second four are the wide forms, which some programs take for the same. A program that expects another delimiter,
# as Excel does in many countries, splits a text at that delimiter, whatever its quotes.
_FORMULA: Final = re.compile(r"(^|[,;|\t\r\n])([\s\"']*)([=+\-@\uff1d\uff0b\uff0d\uff20])")
_CONTROLS: Final = ("\t", "\r", "\n")

Cell = str | int | float | bool | date | None


class TooManyRowsError(PlatformError):
    """The rows do not fit into an Excel sheet."""


def without_formula(text: str) -> str:
    """Return a text with an apostrophe before whatever a spreadsheet would take for the begin of a formula.

    Other texts stay as they are.
    """
    guarded = _FORMULA.sub(r"\1\2'\3", text)
    return f"'{guarded}" if guarded.startswith(_CONTROLS) else guarded


class CsvTable:
    """Rows of a CSV file in UTF-8, whose texts cannot become formulas."""

    def __init__(self, file: BinaryIO, columns: Sequence[str]) -> None:
        """Write the header.

        Args:
            file: where to write; it stays open.
            columns: names of the columns.
        """
        self._file = file
        self._write([columns])

    def write(self, rows: Iterable[Sequence[Cell]]) -> None:
        """Write rows. Numbers have as many digits as Python needs to read the same number again; None is empty."""
        self._write(rows)

    def _write(self, rows: Iterable[Sequence[Cell]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        for row in rows:
            writer.writerow([without_formula(cell) if isinstance(cell, str) else cell for cell in row])
        self._file.write(text.getvalue().encode())


@contextmanager
def excel_table(file: BinaryIO, columns: Sequence[str], *, rows: int) -> Iterator[ExcelTable]:
    """Yield a table of one sheet. The file is complete when the block ends.

    Args:
        file: where to write.
        columns: names of the columns.
        rows: number of rows that will be written.

    Raises:
        TooManyRowsError: they do not fit into a sheet. Nothing was written.
    """
    import xlsxwriter

    if rows + 1 > SHEET_ROWS:
        raise TooManyRowsError(
            f"There are {rows:,} rows, and an Excel sheet has at most {SHEET_ROWS:,}, its header included.",
            remedy="Write a .csv or .parquet file instead.",
        )
    # Row by row: in memory is one row. Texts that look like formulas, numbers or links stay texts.
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "default_date_format": "yyyy-mm-dd",
        "remove_timezone": True,
    }
    with xlsxwriter.Workbook(file, options) as workbook:
        # Excel parses a text again when somebody edits its cell. With this format it stays a text then, too.
        text = workbook.add_format({"quote_prefix": True})
        yield ExcelTable(workbook.add_worksheet(), text, columns)


class ExcelTable:
    """Rows of an Excel sheet. Texts are cells of the type text, which Excel never takes for formulas."""

    def __init__(self, sheet: Worksheet, text: object, columns: Sequence[str]) -> None:
        """Write the header.

        Args:
            sheet: of the workbook.
            text: format of texts.
            columns: names of the columns.
        """
        self._sheet, self._text, self._rows = sheet, text, 0
        sheet.freeze_panes(1, 0)
        self.write([columns])

    def write(self, rows: Iterable[Sequence[Cell]]) -> None:
        """Write rows. None is empty; a text is cut after MAX_CELL_TEXT characters."""
        for row in rows:
            for place, cell in enumerate(row):
                if isinstance(cell, str):
                    self._sheet.write_string(self._rows, place, cell[:MAX_CELL_TEXT], self._text)
                elif isinstance(cell, bool):
                    self._sheet.write_boolean(self._rows, place, cell)
                elif isinstance(cell, datetime | date):
                    self._sheet.write_datetime(self._rows, place, cell)
                elif cell is not None:
                    self._sheet.write_number(self._rows, place, cell)
            self._rows += 1
