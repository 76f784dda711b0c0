"""Tables as CSV and as Excel workbooks, in which no text can become a formula.

A program that opens a file treats a text that begins with = or + as a formula, which may send data to somebody or start
a program. In CSV such a text gets an apostrophe in front, as OWASP recommends ("CSV injection"), and so does each part
of a text after a delimiter: a program that expects another delimiter, as Excel does in many countries, splits the text
there, whatever its quotes. In a workbook, each text has the type text, and stays one when somebody edits its cell.
Numbers, dates and times are numbers there, so that Excel sorts and sums them. Rows are written one by one, so memory
does not grow with their number.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TextIO
from xml.sax.saxutils import escape

from churn_platform.errors import PlatformError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Cell = str | int | float | date | datetime | None

FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The last four are the full-width forms, which count as well."""
_FORMULA: Final = re.compile(r"(^|[,;|\t\r\n])(?=[\s\"']*[=+\-@\uff1d\uff0b\uff0d\uff20])")
MOST_SHEET_ROWS: Final = 1_048_576
"""Rows of a sheet, the header included: Excel's own limit."""
MOST_CELL_CHARACTERS: Final = 32_767
_CHUNK_ROWS: Final = 1_000
"""Rows of a chunk. One has about 100 kB, so there are few of them and each is small."""
_MAIN: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE: Final = "http://schemas.openxmlformats.org/package/2006"
_TYPES: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PARTS: Final = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPES}.sheet.main+xml"/>'
    f'<Override PartName="/xl/styles.xml" ContentType="{_TYPES}.styles+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPES}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{_RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_RELATIONS}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{_RELATIONS}/worksheet" Target="worksheets/sheet1.xml"/>'
    f'<Relationship Id="r2" Type="{_RELATIONS}/styles" Target="styles.xml"/></Relationships>',
    # The formats of numbers, texts, names of columns, dates and times. Excel reads an edited text again, and without
    # quotePrefix finds its formula.
    "xl/styles.xml": f'<styleSheet xmlns="{_MAIN}"><numFmts count="2"><numFmt numFmtId="164" formatCode="d mmm yyyy"/>'
    '<numFmt numFmtId="165" formatCode="d mmm yyyy hh:mm:ss"/></numFmts><fonts count="2"><font/><font><b/></font>'
    '</fonts><fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/>'
    '</fill></fills><borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs>'
    '<cellXfs count="5"><xf/><xf quotePrefix="1"/><xf quotePrefix="1" fontId="1" applyFont="1"/>'
    '<xf numFmtId="164" applyNumberFormat="1"/><xf numFmtId="165" applyNumberFormat="1"/></cellXfs></styleSheet>',
}
_TEXT_STYLE, _NAME_STYLE, _DATE_STYLE, _TIME_STYLE = 1, 2, 3, 4
_DAY_ZERO: Final = datetime(1899, 12, 30, tzinfo=UTC)
"""Excel counts days from here."""
_FIRST_DAY: Final = date(1900, 3, 1)
"""Before it Excel's calendar is wrong: it has a 29 February 1900."""
_WIDTHS: Final = (12, 40)
"""Narrowest and widest column, in characters."""
_FROZEN: Final = (
    '<sheetViews><sheetView workbookViewId="0"><pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" '
    'state="frozen"/></sheetView></sheetViews>'
)
"""The names of the columns stay visible."""
_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'


class TooManyRowsError(PlatformError):
    """A table has more rows than a sheet of Excel."""


def write_csv(output: TextIO, header: Sequence[str] | None, rows: Iterable[Sequence[Cell]]) -> None:
    """Write a table as CSV (RFC 4180): a header, then a line for each row.

    Args:
        output: opened with newline="".
        header: names of the columns; None to add rows to a table.
        rows: cells; None is empty, times are in UTC.
    """
    writer = csv.writer(output)
    if header is not None:
        writer.writerow([without_formula(name) for name in header])
    for row in rows:
        writer.writerow([_csv_cell(cell) for cell in row])


def write_workbook(file: Path | BinaryIO, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a table as an Excel workbook with one sheet.

    Args:
        file: a path, which is replaced if it exists; or a file to write to, which stays open.
        header: names of the columns.
        rows: cells; None is empty, times are in UTC.

    Raises:
        TooManyRowsError: there are more rows than a sheet can have. The file is incomplete.
    """
    if isinstance(file, Path):
        with file.open("wb") as output:
            output.writelines(workbook_chunks(header, rows))
    else:
        file.writelines(workbook_chunks(header, rows))


def csv_chunks(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[bytes]:
    """Return a CSV file piece by piece, for whoever cannot be handed a file to write to.

    It begins with the mark that Excel needs to read UTF-8.

    Args:
        header: names of the columns.
        rows: as for `write_csv`.
    """
    buffer = io.StringIO("\ufeff", newline="")
    buffer.seek(0, io.SEEK_END)
    write_csv(buffer, header, ())
    remaining = iter(rows)
    while part := list(islice(remaining, _CHUNK_ROWS)):
        write_csv(buffer, None, part)
        yield buffer.getvalue().encode()
        buffer = io.StringIO(newline="")
    if rest := buffer.getvalue():
        yield rest.encode()


def workbook_chunks(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[bytes]:
    """Return an Excel workbook with one sheet piece by piece, for whoever cannot be handed a file to write to.

    Args:
        header: names of the columns.
        rows: as for `write_workbook`.

    Raises:
        TooManyRowsError: there are more rows than a sheet can have. What was returned before is incomplete.
    """
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _PARTS.items():
            archive.writestr(name, _DECLARATION + text)
        with archive.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet:
            sheet.write(f'{_DECLARATION}<worksheet xmlns="{_MAIN}">{_FROZEN}{_columns(header)}<sheetData>'.encode())
            sheet.write(f"<row>{''.join(_text_cell(name, style=_NAME_STYLE) for name in header)}</row>".encode())
            for number, row in enumerate(rows, start=2):
                if number > MOST_SHEET_ROWS:
                    raise TooManyRowsError(
                        f"A sheet of Excel has at most {MOST_SHEET_ROWS:,} rows, its header included, and there are "
                        f"more.",
                        remedy="Write CSV or Parquet instead.",
                    )
                sheet.write(_row(row))
                if number % _CHUNK_ROWS == 0:
                    yield pieces.take()
            sheet.write(b"</sheetData></worksheet>")
    yield pieces.take()


class _Pieces(io.RawIOBase):
    """A file that can only be written to, and gives away what was written."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        self._written += data
        return memoryview(data).nbytes

    def take(self) -> bytes:
        """Return what was written since the last time."""
        written, self._written = bytes(self._written), bytearray()
        return written


def _csv_cell(cell: Cell) -> str | int | float:
    if cell is None:
        return ""
    return cell if isinstance(cell, int | float) else without_formula(_text(cell))


def without_formula(text: str) -> str:
    """Return a text with an apostrophe before whatever a spreadsheet would take for the begin of a formula."""
    guarded = _FORMULA.sub(r"\1'", text)
    return f"'{guarded}" if guarded.startswith(FORMULA_STARTS) else guarded


def _columns(header: Sequence[str]) -> str:
    """Return the widths of the columns, which follow from their names."""
    narrowest, widest = _WIDTHS
    widths = [min(max(narrowest, len(name) + 2), widest) for name in header]
    parts = [
        f'<col min="{number}" max="{number}" width="{width}" customWidth="1"/>'
        for number, width in enumerate(widths, start=1)
    ]
    return f"<cols>{''.join(parts)}</cols>" if parts else ""


def _row(cells: Sequence[Cell]) -> bytes:
    return f"<row>{''.join(map(_workbook_cell, cells))}</row>".encode()


def _workbook_cell(cell: Cell) -> str:
    if cell is None:
        return "<c/>"
    if isinstance(cell, int | float):
        return f"<c><v>{cell}</v></c>" if cell == cell and abs(cell) != float("inf") else "<c/>"
    if isinstance(cell, datetime) and cell.astimezone(UTC).date() >= _FIRST_DAY:
        days = (cell - _DAY_ZERO) / timedelta(days=1)
        return f'<c s="{_TIME_STYLE}"><v>{days!r}</v></c>'
    if isinstance(cell, date) and not isinstance(cell, datetime) and cell >= _FIRST_DAY:
        return f'<c s="{_DATE_STYLE}"><v>{(cell - _DAY_ZERO.date()).days}</v></c>'
    return _text_cell(_text(cell), style=_TEXT_STYLE)


def _text_cell(given: str, *, style: int) -> str:
    # XML has no control characters.
    text = "".join(each for each in given if each.isprintable() or each in "\n\t")[:MOST_CELL_CHARACTERS]
    return f'<c t="inlineStr" s="{style}"><is><t xml:space="preserve">{escape(text)}</t></is></c>'


def _text(cell: str | date | datetime) -> str:
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
    return cell if isinstance(cell, str) else cell.isoformat()
