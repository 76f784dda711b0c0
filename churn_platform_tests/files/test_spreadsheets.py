"""No text of a CSV or Excel file can become a formula."""

import csv
import io
import re
import zipfile
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_calamine import CalamineWorkbook

from churn_platform.files.spreadsheets import SHEET_ROWS, CsvTable, TooManyRowsError, excel_table, without_formula

FORMULA_BEGINS = "=+-@\uff1d\uff0b\uff0d\uff20"
DELIMITERS = ",;|\t"
DANGEROUS = st.text(st.sampled_from([*FORMULA_BEGINS, *DELIMITERS, '"', "'", " ", "\n", "\r", "a", "1"]), max_size=12)


@given(DANGEROUS, st.sampled_from(DELIMITERS))
def test_a_text_is_no_formula_whatever_delimiter_a_program_splits_it_at(text: str, delimiter: str) -> None:
    file = io.BytesIO()
    CsvTable(file, ["id", "text"]).write([(1, text)])

    for line in file.getvalue().decode().splitlines()[1:]:
        for cell in line.split(delimiter):
            assert not re.match(rf'[\s"]*[{re.escape(FORMULA_BEGINS)}]', cell)


@pytest.mark.parametrize("text", ["S-1", "Müller", "Age 40 raises the risk (+1.20); Balance 5", "a=b", "1-2", "", "'"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_formula(text) == text


@pytest.mark.parametrize("text", ["=1+1", "-2+3", "+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\uff1d1", " =1", "x;=1"])
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert "'" + text.lstrip(" \tx;") in without_formula(text)


def test_numbers_of_a_csv_file_are_read_back_as_the_same_numbers() -> None:
    file = io.BytesIO()
    rows = [(1, 0.1 + 0.2, None), (-5, 1e-9, "=1")]
    CsvTable(file, ["id", "value", "text"]).write(rows)

    found = list(csv.DictReader(io.StringIO(file.getvalue().decode())))

    assert [(int(row["id"]), float(row["value"])) for row in found] == [(number, value) for number, value, _ in rows]
    assert [row["text"] for row in found] == ["", "'=1"]


def test_texts_of_an_excel_file_have_the_type_text() -> None:
    file = io.BytesIO()
    texts = ["=1+1", "+1", "-2", "@a", "https://example.com", "12", "0.5", "x" * 40_000]
    with excel_table(file, ["=id", "text"], rows=len(texts)) as table:
        table.write((number, text) for number, text in enumerate(texts))
        table.write([(0.25, date(2026, 11, 24)), (None, True)])

    with zipfile.ZipFile(file) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    assert "<f>" not in sheet
    assert "hyperlink" not in sheet
    rows = CalamineWorkbook.from_filelike(io.BytesIO(file.getvalue())).get_sheet_by_index(0).to_python()
    assert rows[0] == ["=id", "text"]
    assert [row[1] for row in rows[1:9]] == [text[:32_767] for text in texts]
    assert rows[9:] == [[0.25, date(2026, 11, 24)], ["", True]]


def test_more_rows_than_an_excel_sheet_has_are_refused_before_anything_is_written() -> None:
    file = io.BytesIO()

    with (
        pytest.raises(TooManyRowsError, match=r"1,048,576.*\.csv or \.parquet"),
        excel_table(file, [], rows=SHEET_ROWS),
    ):
        raise AssertionError("the table was opened")

    assert file.getvalue() == b""
