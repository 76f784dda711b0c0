"""Reading customers files: what is accepted and quarantined, and what error messages contain."""

import hashlib
import json
import os
import threading
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import (
    CustomersFileError,
    CustomersFileMissingError,
    EmptyCustomersFileError,
    HeaderError,
    MalformedFileError,
    WrongValueError,
)
from churn_platform.schema.reader import CustomersFile, fingerprint, load_customers
from churn_platform_tests.schema.bank_file import BANK_FILE, needs_bank_file
from churn_platform_tests.schema.files import (
    BANK,
    HEADER,
    ROWS,
    SUBSCRIBERS,
    bank_row,
    csv_of,
    customers_file,
    subscriber,
)

TYPES = {column.name: column.dtype for column in BANK.columns}
DATA_SETS = pytest.mark.parametrize(
    ("schema", "file"),
    [(BANK, "data/raw/ChurnModelling.csv"), (SUBSCRIBERS, "data/subscribers/subscribers.csv")],
    ids=["bank", "subscribers"],
)


def read(path: Path, schema: CustomerSchema = BANK) -> pd.DataFrame:
    """Return the customers of a file of which no row is quarantined."""
    file = load_customers(path, schema)
    assert file.quarantined.empty, file.quarantined["reasons"].tolist()
    return file.customers


def load(folder: Path, *lines: str) -> CustomersFile:
    """Return a file with these lines below the bank's header, after three good rows."""
    return load_customers(customers_file(folder, HEADER, *(bank_row(-number) for number in (3, 2, 1)), *lines), BANK)


def quarantined(file: CustomersFile) -> list[tuple[int, str]]:
    return list(zip(file.quarantined["row"].tolist(), file.quarantined["reasons"], strict=True))


@DATA_SETS
def test_the_committed_files_are_read_whole(schema: CustomerSchema, file: str) -> None:
    loaded = load_customers(file, schema)

    assert list(loaded.customers.columns) == list(schema.names)
    assert (loaded.duplicates, len(loaded.quarantined)) == (0, 0)
    assert loaded.rows == len(loaded.customers)
    assert loaded.customers[schema.id].is_unique
    assert loaded.customers[schema.target].dtype == "int64"
    for column in schema.columns:
        assert str(loaded.customers[column.name].dtype) == column.dtype


@DATA_SETS
def test_texts_are_categories_on_request(schema: CustomerSchema, file: str) -> None:
    expected = load_customers(file, schema).customers

    customers = load_customers(file, schema, categorical=True).customers

    texts = [column.name for column in schema.columns if column.dtype == "object" and column.name != schema.target]
    assert all(str(customers[name].dtype) == "category" for name in texts)
    pd.testing.assert_frame_equal(customers, expected.astype({name: customers[name].dtype for name in texts}))


def test_columns_are_typed_and_missing_values_stay_missing(tmp_path: Path) -> None:
    customers = read(customers_file(tmp_path, HEADER, *ROWS))

    assert customers.dtypes.astype(str).to_dict() == TYPES
    assert list(customers.columns) == list(BANK.names)
    assert customers["Age"].tolist() == [42.0, pytest.approx(np.nan, nan_ok=True)]
    assert customers["Gender"].tolist() == ["Female", None]
    assert customers["Lastname"].tolist() == ["Weber", None]
    assert customers["Balance"].tolist() == [0.0, 159_660.8]


def test_order_extra_columns_blank_lines_spaces_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    plain = read(customers_file(tmp_path, HEADER, *ROWS))
    lines = [HEADER, *ROWS]
    reversed_lines = [",".join(f" {value}" for value in ["extra", *reversed(line.split(","))]) for line in lines]
    path = customers_file(tmp_path, f"\ufeff{reversed_lines[0]}", reversed_lines[1], "", reversed_lines[2])

    pd.testing.assert_frame_equal(read(path), plain)


def test_whole_numbers_with_zero_decimals_and_texts_for_missing_values_are_read(tmp_path: Path) -> None:
    customers = read(customers_file(tmp_path, HEADER, bank_row(CreditScore="619.0", Age="NaN")))

    assert customers["CreditScore"].tolist() == [619]
    assert customers["Age"].isna().all()


def test_leading_zeros_do_not_matter_however_many(tmp_path: Path) -> None:
    rows = [bank_row(1, CreditScore="0619"), bank_row(2, CreditScore=f"{'0' * 40}619.0")]

    assert read(customers_file(tmp_path, HEADER, *rows))["CreditScore"].tolist() == [619, 619]


def test_names_may_contain_commas_line_breaks_and_texts_for_missing_values(tmp_path: Path) -> None:
    row = bank_row(Lastname='"Null, de\nla"', Firstname="None")
    customers = read(customers_file(tmp_path, HEADER, row, ROWS[1]))

    assert customers["Lastname"].tolist() == ["Null, de\nla", None]
    assert customers["Firstname"].tolist() == ["None", None]


def test_other_headers_of_the_schema_and_absent_optional_columns_are_read(tmp_path: Path) -> None:
    lines = [HEADER.replace("Firstname,Lastname", "Surname"), ROWS[0].replace("Ada,Weber", "Weber")]
    customers = read(customers_file(tmp_path, *lines))

    assert customers.dtypes.astype(str).to_dict() == TYPES
    assert customers[["Firstname", "Lastname"]].iloc[0].tolist() == [None, "Weber"]


def test_spellings_dates_text_ids_and_other_categories_are_read(tmp_path: Path) -> None:
    path = tmp_path / "subscribers.csv"
    path.write_text(csv_of([subscriber(1, Plan="Legacy", Churn="Yes"), subscriber(2, LastContact="", Devices="")]))
    customers = read(path, SUBSCRIBERS)

    assert customers["SubscriberId"].tolist() == ["S-200001", "S-200002"]
    assert customers["Churn"].tolist() == [1, 0]
    assert customers["Plan"].tolist() == ["Legacy", "Basic"]
    assert customers["OnlineSecurity"].tolist() == [0, 0]
    assert customers["SignupDate"].tolist() == [pd.Timestamp(2025, 8, 31)] * 2
    assert customers["LastContact"].isna().tolist() == [False, True]
    assert customers["Devices"].isna().tolist() == [False, True]
    assert customers["Discount"].isna().all()


@needs_bank_file
def test_the_banks_own_file_loads() -> None:
    customers = read(BANK_FILE)

    assert customers.shape == (10_000, 15)
    assert customers.dtypes.astype(str).to_dict() == TYPES
    assert customers["Exited"].mean() == pytest.approx(0.2037)
    assert customers["Gender"].isna().sum() == 108
    assert customers["Age"].isna().sum() == 600


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("Age", "17", "Age is out of range: expected a number from 18 to 120 years, or empty"),
        ("Age", "forty", "Age is not a number: expected a number from 18 to 120 years, or empty"),
        ("Age", "inf", "Age is not finite: expected a number from 18 to 120 years, or empty"),
        ("Balance", "1e999", "Balance is out of range: expected a number from 0 to 1,000,000,000 euros"),
        (
            "Balance",
            "€5",
            "Balance is written with a currency or a unit: expected a number from 0 to 1,000,000,000 euros",
        ),
        ("CreditScore", "619.5", "CreditScore is not whole: expected a whole number from 300 to 900 points"),
        ("CreditScore", "0x10", "CreditScore is not a number: expected a whole number from 300 to 900 points"),
        ("CreditScore", "299", "CreditScore is out of range: expected a whole number from 300 to 900 points"),
        ("HasCrCard", "yes", "HasCrCard is yes or no as words: expected 0 or 1"),
        ("HasCrCard", "2", "HasCrCard is out of range: expected 0 or 1"),
        ("Exited", "", "Exited is missing: expected 0 or 1"),
        ("Geography", "Italy", "Geography is none of the categories: expected France, Germany or Spain"),
        ("Geography", "", "Geography is missing: expected France, Germany or Spain"),
    ],
)
def test_a_row_that_breaks_a_rule_is_quarantined_with_its_values_and_the_reason(
    tmp_path: Path, column: str, value: str, reason: str
) -> None:
    file = load(tmp_path, bank_row(1, **{column: value}), bank_row(2))

    assert quarantined(file) == [(4, reason)]
    assert file.quarantined["file"].tolist() == [str(tmp_path / "customers.csv")]
    values = json.loads(file.quarantined["values"][0])
    given = dict(zip(BANK.names, bank_row(1, **{column: value}).split(","), strict=True))
    assert values == {name: text for name, text in given.items() if name not in {"Firstname", "Lastname", "RowNumber"}}
    assert file.customers["CustomerId"].tolist() == [15_600_097, 15_600_098, 15_600_099, 15_600_102]
    assert file.customers["RowNumber"].tolist() == [1, 2, 3, 5]
    assert (file.rows, file.quarantined_share) == (5, 0.2)


def test_an_id_that_does_not_fit_is_quarantined(tmp_path: Path) -> None:
    file = load(tmp_path, bank_row(CustomerId="9" * 30), bank_row(CustomerId=str(2**63)), bank_row(CustomerId="-1"))

    expected = "CustomerId is out of range: expected a whole number from 0 to 4,611,686,018,427,387,904"
    assert quarantined(file) == [(row, expected) for row in (4, 5, 6)]


def test_a_row_with_several_reasons_has_all_of_them(tmp_path: Path) -> None:
    file = load(tmp_path, bank_row(Age="7", Tenure="", Geography="Italy"))

    assert file.quarantined["reasons"][0].split("; ") == [
        "Geography is none of the categories: expected France, Germany or Spain",
        "Age is out of range: expected a number from 18 to 120 years, or empty",
        "Tenure is missing: expected a whole number from 0 to 50 years",
    ]


def test_rows_of_another_width_are_quarantined_and_the_numbers_of_other_rows_are_right(tmp_path: Path) -> None:
    file = load(tmp_path, f"{bank_row(1)},9", "", bank_row(2, Age="7"), "1,2", bank_row(3))

    assert [row for row, _ in quarantined(file)] == [4, 5, 6]
    assert quarantined(file)[0][1] == "the row has 16 values, the header has 15 names"
    assert file.quarantined["values"][0] == "{}"
    assert file.customers["RowNumber"].tolist() == [1, 2, 3, 7]


def test_the_same_row_twice_is_dropped_and_the_same_id_with_other_values_is_quarantined(tmp_path: Path) -> None:
    first, other = bank_row(1, Age=""), bank_row(1, Age="", Tenure="9")
    file = load(tmp_path, first, first.replace("101348.5", "101348.50"), other, bank_row(2), first)

    assert file.duplicates == 2
    assert quarantined(file) == [(6, "CustomerId is that of an earlier row with other values")]
    assert json.loads(file.quarantined["values"][0])["Tenure"] == "9"
    assert file.customers["RowNumber"].tolist() == [1, 2, 3, 4, 7]
    assert file.customers["CustomerId"].is_unique
    assert file.rows == 8


def test_a_quarantined_row_does_not_count_as_the_first_of_its_id(tmp_path: Path) -> None:
    file = load(tmp_path, bank_row(1, Age="7"), bank_row(1))

    assert [row for row, _ in quarantined(file)] == [4]
    assert (file.duplicates, len(file.customers)) == (0, 4)


def test_a_target_that_may_be_missing_is_empty_for_those_rows(tmp_path: Path) -> None:
    columns = (*BANK.columns[:-1], replace(BANK.columns[-1], missing="drop"))
    schema = replace(BANK, columns=columns)
    customers = read(customers_file(tmp_path, HEADER, *ROWS, bank_row(Exited="")), schema)

    assert customers["Exited"].tolist() == [1, 0, pytest.approx(np.nan, nan_ok=True)]


def test_all_values_of_a_column_that_is_wrong_for_one_cause_are_reported_at_once(tmp_path: Path) -> None:
    rows = [bank_row(number) for number in range(9)]
    rows += [bank_row(20, Age="forty"), bank_row(21, Tenure=""), bank_row(22, Geography="Italy")]
    rows += [bank_row(number, CreditScore=f"6{number}.5") for number in range(30, 45)]
    rows += [f"{ROWS[0]},9", "1,2"]

    with pytest.raises(MalformedFileError) as raised:
        load_customers(customers_file(tmp_path, HEADER, *rows), BANK)

    def at(line: int, customer: int) -> str:
        return f"line {line} (row {line - 1}, CustomerId {customer})"

    assert raised.value.problem.splitlines()[1:] == [
        "- 2 rows do not fit the header of 15 names: line 29 has 16 values, line 30 has 2 values.",
        f"- column CreditScore: 15 of 27 values are not whole: '630.5' in {at(14, 15600130)}, "
        f"'631.5' in {at(15, 15600131)}, '632.5' in {at(16, 15600132)} and 12 more. "
        "Expected a whole number from 300 to 900 points.",
        f"- column Geography: 1 of 27 values is none of the categories: a text of 5 characters in {at(13, 15600122)} "
        "(not shown, because it may be a name). Expected France, Germany or Spain.",
        f"- column Age: 1 of 27 values is not a number: a text of 5 characters in {at(11, 15600120)} "
        "(not shown, because it may be a name). Expected a number from 18 to 120 years, or empty.",
        f"- column Tenure: 1 of 27 values is missing: {at(12, 15600121)}. Expected a whole number from 0 to 50 years.",
    ]
    assert raised.value.remedy.startswith("Complete or remove those lines")
    assert "CreditScore: Round the values" in raised.value.remedy
    assert "Geography, Age, Tenure: Correct the values or remove the lines." in raised.value.remedy


@pytest.mark.parametrize(
    ("column", "values", "kind", "remedy"),
    [
        ("HasCrCard", ("Yes", "No"), "yes or no as words", "spellings = { Yes = 1, No = 0 }"),
        ("EstimatedSalary", ("€101348", "99 EUR"), "written with a currency or a unit", "Write the number alone"),
        ("EstimatedSalary", ('"1,234"', '"5,678"'), "written with a comma that may separate", 'Set decimal = ","'),
        ("CreditScore", ("2026-11-24", "24/11/26"), "dates", "Format the column as a number"),
        ("Tenure", ("", "NA"), "missing", "Fill them in"),
        ("Age", ("504", "612"), "out of range", "correct minimum and maximum"),
        ("Geography", ("FR", "DE"), "none of the categories", "List the values in `categories`"),
    ],
)
def test_a_whole_column_of_one_kind_gets_the_remedy_of_that_kind(
    tmp_path: Path, column: str, values: tuple[str, str], kind: str, remedy: str
) -> None:
    path = customers_file(tmp_path, HEADER, *(bank_row(n, **{column: value}) for n, value in enumerate(values)))

    with pytest.raises(WrongValueError) as raised:
        load_customers(path, BANK)

    assert f"column {column}: 2 of 2 values are {kind}" in str(raised.value)
    assert remedy in raised.value.remedy
    assert "remove the lines" not in raised.value.remedy or kind == "missing"


@pytest.mark.parametrize("column", ["Lastname", "Geography", "Exited"])
def test_an_unclosed_quote_is_an_error_that_swallows_no_row(tmp_path: Path, column: str) -> None:
    rows = [bank_row(number) for number in range(3_000)]
    path = customers_file(tmp_path, HEADER, ROWS[0], bank_row(-1, **{column: '"Weber'}), *rows)

    with pytest.raises(MalformedFileError, match="line 3 spans 3,001 lines") as raised:
        load_customers(path, BANK)

    assert "a double quote needs a closing one" in raised.value.remedy
    assert "Weber" not in str(raised.value)


NAMES = ("Ottokar", "Schlotterbeck")


@pytest.mark.parametrize(
    "lines",
    [
        (HEADER, ROWS[0].rpartition(",")[0]),
        (HEADER, f"{ROWS[0]},9"),
        (HEADER, "1,15600001,,Ada,Weber,619,France,Female,42,2,0,1,1,1,1"),
        (HEADER, "15600001,Ada,Weber,1,619,France,Female,42,2,0,1,1,1,1,1"),
        (HEADER.replace("Lastname,CreditScore", "CreditScore,Lastname"), *ROWS[:1]),
        (HEADER.replace("Lastname,CreditScore,Geography", "CreditScore,Geography,Lastname"), *ROWS[:1]),
        ROWS,
        (ROWS[0].replace("Female", "Savage"), ROWS[1]),
        (ROWS[0].replace("Female", "Age"), ROWS[1]),
        (ROWS[0].replace(",", ";"),),
        (HEADER, bank_row(Lastname='"Weber'), *ROWS),
        (HEADER, bank_row(Lastname="Weber\0")),
        (HEADER, bank_row(Lastname="Müller", Firstname="Weber\udcff")),
    ],
)
def test_no_error_and_no_cause_of_an_error_shows_a_customers_name(tmp_path: Path, lines: tuple[str, ...]) -> None:
    path, text = tmp_path / "customers.csv", "\n".join(lines) + "\n"
    text = text.replace("Ada", NAMES[0]).replace("Weber", NAMES[1])
    path.write_bytes(text.encode(errors="surrogateescape") + b"\xc3\xa9" * ("\udcff" in text))

    with pytest.raises(CustomersFileError) as raised:
        load_customers(path, BANK)

    logged = "".join(traceback.format_exception(raised.value))  # as Dagster logs it, with the causes
    assert not any(name in logged for name in NAMES)


@pytest.mark.parametrize(
    "row",
    ["1,15600001,,Ada,Weber,619,France,Female,42,2,0,1,1,1,1", f"{ROWS[0]},9", ROWS[0].replace(",619,", ",Ada,")],
)
def test_no_reason_and_no_value_of_a_malformed_row_shows_a_customers_name(tmp_path: Path, row: str) -> None:
    text = load(tmp_path, row.replace("Ada", NAMES[0]).replace("Weber", NAMES[1])).quarantined

    assert not any(name in reason for name in NAMES for reason in text["reasons"])


def test_a_file_is_read_once_so_the_hash_is_that_of_the_parsed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "customers.csv"
    os.mkfifo(path)  # it can be read only once
    content = f"{HEADER}\n{ROWS[0]}\n".encode()
    writer = threading.Thread(target=lambda: path.write_bytes(content), daemon=True)
    writer.start()

    loaded = load_customers(path, BANK)

    writer.join()
    assert loaded.customers["CustomerId"].tolist() == [15_600_001]
    assert (loaded.sha256, loaded.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


def test_the_fingerprint_is_the_hash_of_the_file_that_was_read(tmp_path: Path) -> None:
    path = customers_file(tmp_path, HEADER, *ROWS)

    assert fingerprint(path) == load_customers(path, BANK).sha256
    assert fingerprint(tmp_path) == load_customers(tmp_path, BANK).sha256 != fingerprint(path)


def test_rows_are_numbered_whatever_the_file_has_as_row_number(tmp_path: Path) -> None:
    lines = [HEADER, ROWS[0].replace("1,", "x,", 1), ROWS[1].replace("2,", ",", 1)]
    without = [line.partition(",")[2] for line in lines]

    for given in (lines, without):
        assert read(customers_file(tmp_path, *given))["RowNumber"].tolist() == [1, 2]


def test_the_error_for_a_missing_file_has_remedies(tmp_path: Path) -> None:
    with pytest.raises(CustomersFileMissingError, match=r"absent\.csv.*churn data generate.*CHURN_RAW_CSV"):
        load_customers(tmp_path / "absent.csv", BANK)


@pytest.mark.parametrize(("content", "found"), [("", "line 1 is empty"), (f"{HEADER}\n", "a header and no customers")])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "customers.csv"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(EmptyCustomersFileError, match=found):
        load_customers(path, BANK)


def test_missing_columns_are_named_and_a_misspelt_one_is_recognised(tmp_path: Path) -> None:
    lines = [HEADER.replace("CreditScore", "credit_score").replace("Gender", "x"), *ROWS]

    with pytest.raises(HeaderError) as raised:
        load_customers(customers_file(tmp_path, *lines), BANK)

    assert "line 1 lacks the columns CreditScore, Gender." in str(raised.value)
    assert "Rename 'credit_score' to CreditScore" in str(raised.value)
    assert "`headers`" in raised.value.remedy
    assert "Expected CustomerId, CreditScore, Geography" in str(raised.value)


def test_a_repeated_column_is_an_error(tmp_path: Path) -> None:
    lines = [f"{HEADER},Age", *(f"{row},42" for row in ROWS)]

    with pytest.raises(HeaderError, match="line 1 names column Age 2 times, as the columns 8, 16 of the file"):
        load_customers(customers_file(tmp_path, *lines), BANK)


def test_an_unknown_delimiter_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    lines = [line.replace(",", "^") for line in (HEADER, *ROWS)]

    with pytest.raises(HeaderError, match=r"data_set\.delimiter"):
        load_customers(customers_file(tmp_path, *lines), BANK)


@pytest.mark.parametrize(("row", "count"), [(f"{ROWS[0]},9", 16), (ROWS[0].rpartition(",")[0], 14)])
def test_a_file_of_rows_with_too_many_or_too_few_values_is_an_error(tmp_path: Path, row: str, count: int) -> None:
    with pytest.raises(
        MalformedFileError, match=f"1 row does not fit the header of 15 names: line 2 has {count} values"
    ):
        load_customers(customers_file(tmp_path, HEADER, row), BANK)


def test_all_errors_have_one_base_class() -> None:
    kinds = (CustomersFileMissingError, EmptyCustomersFileError, HeaderError, MalformedFileError, WrongValueError)

    assert all(issubclass(kind, CustomersFileError) for kind in kinds)
