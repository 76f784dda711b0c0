"""Reading customers files: what is accepted, and what error messages contain."""

import gzip
import hashlib
import os
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.schema.columns import COLUMN_NAMES, COLUMNS
from churn_platform.schema.exceptions import (
    CustomersFileError,
    CustomersFileMissingError,
    EmptyCustomersFileError,
    HeaderError,
    MalformedFileError,
    WrongValueError,
)
from churn_platform.schema.reader import load_customers, read_customers
from churn_platform_tests.schema.bank_file import BANK_FILE, needs_bank_file

HEADER = ",".join(COLUMN_NAMES)
ROWS = (
    "1,15600001,Ada,Weber,619,France,Female,42,2,0,1,1,1,101348.5,1",
    "2,15600002,,,502,Germany,,,8,159660.8,3,1,0,113931,0",
)
TYPES = {column.name: column.dtype for column in COLUMNS}


def customers_file(folder: Path, *lines: str) -> Path:
    path = folder / "customers.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def with_value(column: str, value: str) -> str:
    values = ROWS[0].split(",")
    values[COLUMN_NAMES.index(column)] = value
    return ",".join(values)


def at(line: int) -> str:
    """Return the location of a row as an error shows it, in a file with one row per line."""
    return f"line {line} (row {line - 1}, CustomerId 15600001)"


def test_columns_are_typed_and_missing_values_stay_missing(tmp_path: Path) -> None:
    customers = read_customers(customers_file(tmp_path, HEADER, *ROWS))

    assert customers.dtypes.astype(str).to_dict() == TYPES
    assert list(customers.columns) == list(COLUMN_NAMES)
    assert customers["Age"].tolist() == [42.0, pytest.approx(np.nan, nan_ok=True)]
    assert customers["Gender"].tolist() == ["Female", None]
    assert customers["Lastname"].tolist() == ["Weber", None]
    assert customers["Balance"].tolist() == [0.0, 159_660.8]


def test_order_extra_columns_blank_lines_spaces_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    plain = read_customers(customers_file(tmp_path, HEADER, *ROWS))
    lines = [HEADER, *ROWS]
    reversed_lines = [",".join(f" {value}" for value in ["extra", *reversed(line.split(","))]) for line in lines]

    pd.testing.assert_frame_equal(
        read_customers(
            customers_file(tmp_path, f"\ufeff{reversed_lines[0]}", reversed_lines[1], "", reversed_lines[2])
        ),
        plain,
    )


def test_whole_numbers_with_zero_decimals_and_texts_for_missing_values_are_read(tmp_path: Path) -> None:
    row = with_value("CreditScore", "619.0").replace(",42,", ",NaN,")
    customers = read_customers(customers_file(tmp_path, HEADER, row))

    assert customers["CreditScore"].tolist() == [619]
    assert customers["Age"].isna().all()


def test_leading_zeros_do_not_matter_however_many(tmp_path: Path) -> None:
    rows = [with_value("CreditScore", "0619"), with_value("CreditScore", f"{'0' * 40}619.0")]

    assert read_customers(customers_file(tmp_path, HEADER, *rows))["CreditScore"].tolist() == [619, 619]


def test_names_may_contain_commas_line_breaks_and_texts_for_missing_values(tmp_path: Path) -> None:
    row = with_value("Lastname", '"Null, de\nla"').replace("Ada", "None")
    customers = read_customers(customers_file(tmp_path, HEADER, row, ROWS[1]))

    assert customers["Lastname"].tolist() == ["Null, de\nla", None]
    assert customers["Firstname"].tolist() == ["None", None]


def test_the_public_file_with_surname_and_no_first_name_loads(tmp_path: Path) -> None:
    lines = [HEADER.replace("Firstname,Lastname", "Surname"), ROWS[0].replace("Ada,Weber", "Weber")]
    customers = read_customers(customers_file(tmp_path, *lines))

    assert customers.dtypes.astype(str).to_dict() == TYPES
    assert customers[["Firstname", "Lastname"]].iloc[0].tolist() == [None, "Weber"]


@needs_bank_file
def test_the_banks_own_file_loads() -> None:
    customers = read_customers(BANK_FILE)

    assert customers.shape == (10_000, 15)
    assert customers.dtypes.astype(str).to_dict() == TYPES
    assert customers["Exited"].mean() == pytest.approx(0.2037)
    assert customers["Gender"].isna().sum() == 108
    assert customers["Age"].isna().sum() == 600


def test_values_out_of_range_are_left_to_the_checks(tmp_path: Path) -> None:
    customers = read_customers(
        customers_file(tmp_path, HEADER, with_value("Age", "17"), with_value("Geography", "Italy"))
    )

    assert customers["Age"].tolist() == [17.0, 42.0]
    assert customers["Geography"].tolist() == ["France", "Italy"]


@pytest.mark.parametrize(
    ("column", "value", "found", "expected"),
    [
        ("Age", "forty", "not a number: a text of 5 characters", "Expected a number from 18 to 120 years, or empty"),
        ("Age", "inf", "not finite: 'inf'", "Expected a number from 18 to 120 years"),
        ("Balance", "1.000,50", "thousands separators: '1.000,50'", "Expected a number from 0 to 1,000,000,000 euros"),
        ("CreditScore", "619.5", "not whole: '619.5'", "Expected a whole number from 300 to 900 points"),
        ("CreditScore", "0x10", "not a number: a text of 4 characters", "Expected a whole number from 300 to 900"),
        ("CustomerId", "9" * 30, "out of range", "Expected a whole number from 0 to 4,611,686,018,427,387,904"),
        ("Exited", "yes", "yes or no as words: 'yes'", "Expected 0 or 1"),
        ("Tenure", "", "missing: line 6", "Expected a whole number from 0 to 50 years"),
    ],
)
def test_a_value_of_the_wrong_type_is_reported_with_its_location(
    tmp_path: Path, column: str, value: str, found: str, expected: str
) -> None:
    wrong = with_value(column, f'"{value}"' if "," in value else value)
    path = customers_file(tmp_path, HEADER, with_value("Lastname", '"two\nlines"'), "", ROWS[1], wrong, wrong)

    with pytest.raises(WrongValueError) as raised:
        read_customers(path)

    message = str(raised.value)
    assert message.startswith(f"{path}: column {column}: 2 of 4 values are ")
    assert found in message
    assert "line 6 (row 3, CustomerId " in message
    assert "line 7 (row 4, CustomerId " in message
    assert expected in message


def test_all_wrong_values_are_reported_at_once_by_column_and_kind(tmp_path: Path) -> None:
    rows = [*[ROWS[1]] * 20, with_value("Age", "forty"), with_value("Age", "44,5".join('""'))]
    rows += [with_value("Tenure", ""), *[with_value("CreditScore", "619.5")] * 5, f"{ROWS[0]},9", "1,2"]

    with pytest.raises(MalformedFileError) as raised:
        read_customers(customers_file(tmp_path, HEADER, *rows))

    assert raised.value.problem.splitlines()[1:] == [
        "- 2 rows do not fit the header of 15 names: line 30 has 16 values, line 31 has 2 values.",
        f"- column CreditScore: 5 of 28 values are not whole: '619.5' in {at(25)}, '619.5' in {at(26)}, "
        f"'619.5' in {at(27)} and 2 more. Expected a whole number from 300 to 900 points.",
        f"- column Age: 1 of 28 values is written with a decimal comma: '44,5' in {at(23)}. "
        "Expected a number from 18 to 120 years, or empty.",
        f"- column Age: 1 of 28 values is not a number: a text of 5 characters in {at(22)} "
        "(not shown, because it may be a name). "
        "Expected a number from 18 to 120 years, or empty.",
        f"- column Tenure: 1 of 28 values is missing: {at(24)}. Expected a whole number from 0 to 50 years.",
    ]
    assert raised.value.remedy.startswith("Complete or remove those lines")
    assert "CreditScore, Age, Tenure: Correct the values or remove the lines." in raised.value.remedy
    assert "Age: Write decimals with a point" in raised.value.remedy


@pytest.mark.parametrize(
    ("column", "values", "kind", "remedy"),
    [
        ("HasCrCard", ("Yes", "No"), "yes or no as words", "Write 1 for yes and 0 for no"),
        ("Balance", ('"101348,88"', '"0,5"'), "written with a decimal comma", "Write decimals with a point"),
        ("Balance", ('"101,348.88"', '"1,234"'), "written with thousands separators", "without separators"),
        ("Balance", ('"101.348,88"', "1 234"), "written with thousands separators", "without separators"),
        ("EstimatedSalary", ("€101348", "99 EUR"), "written with a currency or a unit", "Write the number alone"),
        ("CreditScore", ("2026-11-24", "24/11/26"), "dates", "Format the column as a number"),
        ("Tenure", ("", "NA"), "missing", "Fill them in"),
    ],
)
def test_a_whole_column_of_one_kind_gets_the_remedy_of_that_kind(
    tmp_path: Path, column: str, values: tuple[str, str], kind: str, remedy: str
) -> None:
    path = customers_file(tmp_path, HEADER, *(with_value(column, value) for value in values))

    with pytest.raises(WrongValueError) as raised:
        read_customers(path)

    assert f"column {column}: 2 of 2 values are {kind}" in str(raised.value)
    assert remedy in raised.value.remedy
    assert "remove the lines" not in raised.value.remedy or kind == "missing"


def test_an_unclosed_quote_is_an_error_with_a_line_number(tmp_path: Path) -> None:
    rows = [ROWS[1]] * 3_000
    path = customers_file(tmp_path, HEADER, ROWS[0], with_value("Lastname", '"Weber'), *rows)

    with pytest.raises(MalformedFileError, match=r"line \d+ has \d+ values") as raised:
        read_customers(path)

    assert "a double quote needs a closing one" in raised.value.remedy
    assert "Weber" not in str(raised.value)


NAMES = ("Ottokar", "Schlotterbeck")


@pytest.mark.parametrize(
    "lines",
    [
        (HEADER, ROWS[1], ROWS[0].rpartition(",")[0]),
        (HEADER, ROWS[1], f"{ROWS[0]},9"),
        (HEADER, "1,15600001,,Ada,Weber,619,France,Female,42,2,0,1,1,1,1"),
        (HEADER, "15600001,Ada,Weber,1,619,France,Female,42,2,0,1,1,1,1,1"),
        (HEADER.replace("Lastname,CreditScore", "CreditScore,Lastname"), *ROWS[:1]),
        (HEADER.replace("Lastname,CreditScore,Geography", "CreditScore,Geography,Lastname"), *ROWS[:1]),
        ROWS,
        (ROWS[0].replace("Female", "Savage"), ROWS[1]),
        (ROWS[0].replace("Female", "Age"), ROWS[1]),
        (ROWS[0].replace(",", ";"),),
        (HEADER, with_value("Lastname", '"Weber')),
        (HEADER, with_value("Lastname", "Weber\0")),
        (HEADER, with_value("Lastname", "Weber\udcff")),
    ],
)
def test_no_error_and_no_cause_of_an_error_shows_a_customers_name(tmp_path: Path, lines: tuple[str, ...]) -> None:
    path, text = tmp_path / "customers.csv", "\n".join(lines) + "\n"
    path.write_bytes(text.replace("Ada", NAMES[0]).replace("Weber", NAMES[1]).encode(errors="surrogateescape"))

    with pytest.raises(CustomersFileError) as raised:
        read_customers(path)

    logged = "".join(traceback.format_exception(raised.value))  # as Dagster logs it, with the causes
    assert not any(name in logged for name in NAMES)


def test_a_file_is_read_once_so_the_hash_is_that_of_the_parsed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "customers.csv"
    os.mkfifo(path)  # it can be read only once
    content = f"{HEADER}\n{ROWS[0]}\n".encode()
    writer = threading.Thread(target=lambda: path.write_bytes(content), daemon=True)
    writer.start()

    loaded = load_customers(path)

    writer.join()
    assert loaded.customers["CustomerId"].tolist() == [15_600_001]
    assert (loaded.sha256, loaded.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


def test_rows_are_numbered_whatever_the_file_has_as_row_number(tmp_path: Path) -> None:
    lines = [HEADER, ROWS[0].replace("1,", "x,", 1), ROWS[1].replace("2,", ",", 1)]
    without = [line.partition(",")[2] for line in lines]

    for given in (lines, without):
        assert read_customers(customers_file(tmp_path, *given))["RowNumber"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("encoded", "what", "remedy"),
    [
        (lambda text: text.encode("utf-16"), "UTF-16", "iconv -f utf-16 -t utf-8"),
        (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "UTF-16", "iconv -f utf-16 -t utf-8"),
        (lambda text: text.encode("utf-16-le"), "UTF-16", "iconv -f utf-16le -t utf-8"),
        (lambda text: text.encode("utf-16-be"), "UTF-16", "iconv -f utf-16be -t utf-8"),
        (lambda text: text.encode("utf-32"), "UTF-32", "iconv -f utf-32 -t utf-8"),
        (lambda text: gzip.compress(text.encode()), "gzip", "gunzip"),
        (lambda text: b"PK\x03\x04" + text.encode(), "Excel workbook", "Export it as CSV"),
    ],
)
def test_the_error_for_a_file_of_another_format_names_the_format(
    tmp_path: Path, encoded: Callable[[str], bytes], what: str, remedy: str
) -> None:
    path = tmp_path / "customers.csv"
    path.write_bytes(encoded("\n".join([HEADER, *ROWS])))

    with pytest.raises(MalformedFileError) as raised:
        read_customers(path)

    assert what in raised.value.problem
    assert remedy in raised.value.remedy


def test_the_error_for_a_missing_file_has_remedies(tmp_path: Path) -> None:
    with pytest.raises(CustomersFileMissingError, match=r"absent\.csv.*churn data generate.*CHURN_RAW_CSV"):
        read_customers(tmp_path / "absent.csv")


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CustomersFileMissingError, match="cannot be opened"):
        read_customers(tmp_path)


@pytest.mark.parametrize(("content", "found"), [("", "line 1 is empty"), (f"{HEADER}\n", "a header and no customers")])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "customers.csv"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(EmptyCustomersFileError, match=found):
        read_customers(path)


def test_missing_columns_are_named_and_a_misspelt_one_is_recognised(tmp_path: Path) -> None:
    lines = [HEADER.replace("CreditScore", "credit_score").replace("Gender", "x"), *ROWS]

    with pytest.raises(HeaderError) as raised:
        read_customers(customers_file(tmp_path, *lines))

    assert "line 1 lacks the columns CreditScore, Gender." in str(raised.value)
    assert "Rename 'credit_score' to CreditScore" in str(raised.value)
    assert "Expected CustomerId, CreditScore, Geography" in str(raised.value)


def test_a_repeated_column_is_an_error(tmp_path: Path) -> None:
    lines = [f"{HEADER},Age", *(f"{row},42" for row in ROWS)]

    with pytest.raises(HeaderError, match="line 1 names column Age 2 times, as the columns 8, 16 of the file"):
        read_customers(customers_file(tmp_path, *lines))


def test_the_error_for_semicolons_says_that_commas_are_expected(tmp_path: Path) -> None:
    lines = [line.replace(",", ";") for line in (HEADER, *ROWS)]

    with pytest.raises(HeaderError, match="must be comma-separated"):
        read_customers(customers_file(tmp_path, *lines))


@pytest.mark.parametrize(("row", "count"), [(f"{ROWS[0]},9", 16), (ROWS[0].rpartition(",")[0], 14)])
def test_a_row_with_too_many_or_too_few_values_is_named(tmp_path: Path, row: str, count: int) -> None:
    with pytest.raises(
        MalformedFileError, match=f"1 row does not fit the header of 15 names: line 3 has {count} values"
    ):
        read_customers(customers_file(tmp_path, HEADER, ROWS[1], row))


@pytest.mark.parametrize("customers_before", [0, 20_000])
def test_a_file_that_is_not_utf8_is_an_error(tmp_path: Path, customers_before: int) -> None:
    path = customers_file(tmp_path, HEADER, *[ROWS[1]] * customers_before, with_value("Lastname", "Müller"))
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))

    with pytest.raises(MalformedFileError, match=r"not UTF-8.*iconv"):
        read_customers(path)


def test_all_errors_have_one_base_class() -> None:
    kinds = (CustomersFileMissingError, EmptyCustomersFileError, HeaderError, MalformedFileError, WrongValueError)

    assert all(issubclass(kind, CustomersFileError) for kind in kinds)
