"""CSV files and workbooks: values arrive as they are, and no text becomes a formula."""

import csv
import io
import itertools
import math
import re
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from churn_platform.files.spreadsheets import (
    FORMULA_STARTS,
    MOST_SHEET_ROWS,
    Cell,
    TooManyRowsError,
    csv_chunks,
    without_formula,
    workbook_chunks,
    write_csv,
    write_workbook,
)

DANGEROUS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t1", "\r1", "\uff1d1", ' "=1', '=HYPERLINK("http://x","y")']
FORMULA_BEGINS = "=+-@\uff1d\uff0b\uff0d\uff20"
DELIMITERS = ",;|\t"


def csv_of(header: list[str], *rows: list[Cell]) -> list[list[str]]:
    """Return what a reader of the CSV file finds."""
    buffer = io.StringIO(newline="")
    write_csv(buffer, header, rows)
    return list(csv.reader(io.StringIO(buffer.getvalue(), newline="")))


def test_values_keep_their_types_and_times_are_in_utc(tmp_path: Path) -> None:
    moment = datetime(2026, 11, 24, 8, 30, tzinfo=UTC)
    row: list[Cell] = ["Ana & <Bo>", 7, -2.5, None, date(2026, 11, 24), moment]

    assert csv_of(["a", "b", "c", "d", "e", "f"], row)[1] == [
        *("Ana & <Bo>", "7", "-2.5", "", "2026-11-24", "2026-11-24 08:30:00+00:00"),
    ]
    write_workbook(tmp_path / "a.xlsx", ["a", "b", "c", "d", "e", "f"], [row])
    assert CalamineWorkbook.from_path(tmp_path / "a.xlsx").get_sheet_by_index(0).to_python() == [
        ["a", "b", "c", "d", "e", "f"],
        ["Ana & <Bo>", 7.0, -2.5, "", date(2026, 11, 24), datetime(2026, 11, 24, 8, 30)],  # noqa: DTZ001  Excel's
    ]


def test_days_that_excel_does_not_know_are_texts(tmp_path: Path) -> None:
    early, berlin = date(1899, 12, 31), datetime(2026, 1, 1, 0, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    write_workbook(tmp_path / "a.xlsx", ["early", "first", "berlin"], [[early, date(1900, 3, 1), berlin]])
    assert CalamineWorkbook.from_path(tmp_path / "a.xlsx").get_sheet_by_index(0).to_python()[1] == [
        *("1899-12-31", date(1900, 3, 1), datetime(2025, 12, 31, 23, 30)),  # noqa: DTZ001  Excel's
    ]


@pytest.mark.parametrize("text", DANGEROUS)
def test_a_text_that_looks_like_a_formula_is_a_text(text: str, tmp_path: Path) -> None:
    assert csv_of([text], [text]) == [[f"'{text}"], [f"'{text}"]]

    write_workbook(tmp_path / "a.xlsx", ["name"], [[text]])

    xml = zipfile.ZipFile(tmp_path / "a.xlsx").read("xl/worksheets/sheet1.xml").decode()
    assert "<f>" not in xml
    assert xml.count('t="inlineStr"') == 2


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_no_text_in_csv_begins_like_a_formula(texts: list[str]) -> None:
    for row in csv_of(["column"] * len(texts), list(texts)):
        assert not any(cell.startswith(FORMULA_STARTS) for cell in row)


@given(
    st.text(st.sampled_from([*FORMULA_BEGINS, *DELIMITERS, '"', "'", " ", "\n", "\r", "a", "1"]), max_size=12),
    st.sampled_from(DELIMITERS),
)
def test_no_text_is_a_formula_whatever_delimiter_a_program_splits_it_at(text: str, delimiter: str) -> None:
    buffer = io.StringIO(newline="")
    write_csv(buffer, ["id", "text"], [(1, text)])

    for line in buffer.getvalue().splitlines()[1:]:
        for cell in line.split(delimiter):
            assert not re.match(rf'[\s"]*[{re.escape(FORMULA_BEGINS)}]', cell)


@pytest.mark.parametrize("text", ["S-1", "Müller", "Age 40 raises the risk (+1.20); Balance 5", "a=b", "1-2", "", "'"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_formula(text) == text


@given(text=st.text())
def test_every_text_makes_a_readable_workbook(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("workbooks") / "a.xlsx"

    write_workbook(file, ["text"], [[text], [math.nan], [math.inf]])

    [_, *rows] = CalamineWorkbook.from_path(file).get_sheet_by_index(0).to_python()
    assert not rows or isinstance(rows[0][0], str)


def test_a_sheet_that_would_be_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooManyRowsError, match=r"at most 1,048,576 rows.*Write CSV or Parquet"):
        write_workbook(tmp_path / "a.xlsx", ["number"], ([1] for _ in range(MOST_SHEET_ROWS)))


@pytest.mark.parametrize("count", [0, 1, 1_000, 2_500])
def test_the_pieces_of_a_file_are_the_file(count: int, tmp_path: Path) -> None:
    rows: list[list[Cell]] = [[number, f"=text {number}"] for number in range(count)]

    text = b"".join(csv_chunks(["number", "text"], rows)).decode("utf-8-sig")
    assert list(csv.reader(io.StringIO(text, newline=""))) == csv_of(["number", "text"], *rows)

    (tmp_path / "a.xlsx").write_bytes(b"".join(workbook_chunks(["number", "text"], rows)))
    assert CalamineWorkbook.from_path(tmp_path / "a.xlsx").get_sheet_by_index(0).to_python() == [
        ["number", "text"],
        *([float(number), f"=text {number}"] for number in range(count)),
    ]


def test_pieces_are_there_before_all_rows_are_read() -> None:
    for chunks in (csv_chunks, workbook_chunks):
        read = itertools.count()
        next(chunks(["number"], ([number] for number in read)))
        assert next(read) < 2_000
