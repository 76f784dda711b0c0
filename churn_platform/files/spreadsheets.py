"""Tables as CSV and as Excel workbooks, in which no text can become a formula.

A program that opens a file treats a text that begins with = or + as a formula, which may send data to somebody or start
a program. In CSV such a text gets an apostrophe in front, as OWASP recommends ("CSV injection"). In a workbook, each
text has the type text. Rows are written one by one, so memory does not grow with their number.
"""

import csv
import zipfile
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, TextIO
from xml.sax.saxutils import escape

Cell = str | int | float | date | datetime | None

FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001  full-width ones count, too
MOST_SHEET_ROWS: Final = 1_048_576
"""Rows of a sheet, the header included: Excel's own limit."""
MOST_CELL_CHARACTERS: Final = 32_767
_MAIN: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE: Final = "http://schemas.openxmlformats.org/package/2006"
_TYPES: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PARTS: Final = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPES}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPES}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{_RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_RELATIONS}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{_RELATIONS}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}
_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'


def write_csv(output: TextIO, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a table as CSV (RFC 4180): a header, then a line for each row.

    Args:
        output: opened with newline="".
        header: names of the columns.
        rows: cells; None is empty, times are in UTC.
    """
    writer = csv.writer(output)
    writer.writerow([_harmless(name) for name in header])
    for row in rows:
        writer.writerow([_csv_cell(cell) for cell in row])


def write_workbook(file: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a table as an Excel workbook with one sheet.

    Args:
        file: replaced if it exists.
        header: names of the columns.
        rows: cells; None is empty, dates and times are texts in ISO 8601, times in UTC.

    Raises:
        ValueError: there are more rows than a sheet can have. The file is incomplete.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _PARTS.items():
            archive.writestr(name, _DECLARATION + text)
        with archive.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet:
            sheet.write(f'{_DECLARATION}<worksheet xmlns="{_MAIN}"><sheetData>'.encode())
            sheet.write(_row(header))
            for number, row in enumerate(rows, start=2):
                if number > MOST_SHEET_ROWS:
                    raise ValueError(f"A sheet of Excel has at most {MOST_SHEET_ROWS:,} rows. Write CSV instead.")
                sheet.write(_row(row))
            sheet.write(b"</sheetData></worksheet>")


def _csv_cell(cell: Cell) -> str | int | float:
    if cell is None:
        return ""
    return cell if isinstance(cell, int | float) else _harmless(_text(cell))


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _row(cells: Sequence[Cell]) -> bytes:
    return f"<row>{''.join(map(_workbook_cell, cells))}</row>".encode()


def _workbook_cell(cell: Cell) -> str:
    if cell is None:
        return "<c/>"
    if isinstance(cell, int | float):
        return f"<c><v>{cell}</v></c>" if cell == cell and abs(cell) != float("inf") else "<c/>"
    # XML has no control characters.
    text = "".join(each for each in _text(cell) if each.isprintable() or each in "\n\t")[:MOST_CELL_CHARACTERS]
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'


def _text(cell: str | date | datetime) -> str:
    if isinstance(cell, datetime):
        return cell.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
    return cell if isinstance(cell, str) else cell.isoformat()
