"""Formats of customers files: delimiters, encodings, number and date formats, gzip, Parquet, Excel, folders and S3."""

import gzip
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from churn_platform.files import artifacts
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import CustomersFileError, CustomersFileMissingError, MalformedFileError
from churn_platform.schema.reader import CustomersFile, fingerprint, load_customers
from churn_platform.schema.typed_files import open_parquet
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
from churn_platform_tests.schema.workbooks import Cell, open_document, workbook

COMMITTED = {
    "bank": (BANK, "data/raw/ChurnModelling.csv"),
    "subscribers": (SUBSCRIBERS, "data/subscribers/subscribers.csv"),
}
BOTH = pytest.mark.parametrize(("schema", "file"), COMMITTED.values(), ids=COMMITTED)
TEXT = "\n".join([HEADER, *ROWS]) + "\n"


def load(folder: Path, content: bytes, schema: CustomerSchema = BANK) -> CustomersFile:
    path = folder / "customers"
    path.write_bytes(content)
    return load_customers(path, schema)


def detected(file: CustomersFile) -> str:
    (text,) = file.detected.values()
    return text


def texts_of(file: str) -> list[list[str]]:
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    return [list(frame.columns), *frame.to_numpy().tolist()]


@BOTH
@pytest.mark.parametrize(
    ("delimiter", "shown"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "vertical")]
)
def test_delimiters_are_detected(tmp_path: Path, schema: CustomerSchema, file: str, delimiter: str, shown: str) -> None:
    rows = [delimiter.join(row) for row in texts_of(file)[:500]]
    loaded = load(tmp_path, "\n".join(rows).encode(), schema)

    pd.testing.assert_frame_equal(loaded.customers, load_customers(file, schema).customers[:499])
    assert f"separated by {shown}" in detected(loaded)


@pytest.mark.parametrize("line", ["sep=^\n", "SEP=^\r\n", '"sep=^"\n'])
def test_a_sep_line_names_the_delimiter(tmp_path: Path, line: str) -> None:
    loaded = load(tmp_path, (line + TEXT.replace(",", "^")).encode())

    assert len(loaded.customers) == 2
    assert detected(loaded) == "CSV in UTF-8, separated by '^', named by a line 'sep='"


def test_lines_are_counted_below_a_sep_line(tmp_path: Path) -> None:
    with pytest.raises(MalformedFileError, match="line 3 has 2 values"):
        load(tmp_path, f"sep=,\n{HEADER}\n1,2\n".encode())


@pytest.mark.parametrize(
    ("encoded", "shown"),
    [
        (lambda text: text.encode(), "UTF-8"),
        (lambda text: text.encode("utf-8-sig"), "UTF-8 with a byte order mark"),
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "UTF-16"),
        (lambda text: text.encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (lambda text: text.encode("utf-16-be"), "UTF-16 without a byte order mark"),
        (lambda text: text.encode("utf-32"), "UTF-32"),
        (lambda text: text.encode("cp1252"), "Windows-1252"),
        (lambda text: text.replace("Ada", "\x81").encode("latin-1"), "ISO 8859-1"),
    ],
)
def test_encodings_are_detected(tmp_path: Path, encoded: Callable[[str], bytes], shown: str) -> None:
    loaded = load(tmp_path, encoded(TEXT.replace("Weber", "Müller-Šebek" if shown != "ISO 8859-1" else "Müller")))

    assert loaded.customers["Lastname"][0] in ("Müller-Šebek", "Müller")
    assert detected(loaded) == f"CSV in {shown}, separated by commas"


def test_an_encoding_of_the_schema_is_used(tmp_path: Path) -> None:
    text = TEXT.replace("Weber", "Žižek")
    loaded = load(tmp_path, text.encode("cp1250"), replace(BANK, encoding="cp1250"))

    assert loaded.customers["Lastname"][0] == "Žižek"


def test_damaged_utf8_is_an_error_and_not_another_encoding(tmp_path: Path) -> None:
    rows = [bank_row(number, Lastname="Müller") for number in range(20)]
    content = "\n".join([HEADER, *rows]).encode().replace("ü".encode(), b"\xc3", 1)

    with pytest.raises(MalformedFileError, match="not UTF-8, first in line 2: 0xc3"):
        load(tmp_path, content)


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(MalformedFileError, match="zero byte at position"):
        load(tmp_path, TEXT.encode() + b"\0")


@pytest.mark.parametrize(
    ("salaries", "balances", "shown"),
    [
        (["101348,5", "99,25"], ["0", "159.660,80"], "decimal comma"),
        (["101.348,50", "1.000"], ["0", "159660,8"], "decimal comma"),
        (["101 348,5", "1 000,00"], ["0", "159\u202f660,8"], "decimal comma"),
        (["101,348.50", "1,000.00"], ["0", "159,660.80"], "thousands separators"),
        (["101'348.5", "1'000"], ["0", "159660.8"], "thousands separators"),
        (["101,348.50", "1,000"], ["0", "159,660.8"], "thousands separators"),
    ],
)
def test_decimal_commas_and_thousands_separators_are_detected(
    tmp_path: Path, salaries: list[str], balances: list[str], shown: str
) -> None:
    pairs = zip(salaries, balances, strict=True)
    rows = [bank_row(n, EstimatedSalary=f'"{s}"', Balance=f'"{b}"') for n, (s, b) in enumerate(pairs)]
    loaded = load(tmp_path, "\n".join([HEADER, *rows]).encode())

    assert loaded.customers["Balance"].tolist() == [0, 159_660.8]
    assert loaded.customers["EstimatedSalary"].tolist() in ([101_348.5, 99.25], [101_348.5, 1_000])
    assert detected(loaded).endswith(f", {shown}")


def test_a_number_that_both_formats_allow_is_read_as_the_files_other_columns_are(tmp_path: Path) -> None:
    rows = [bank_row(n, EstimatedSalary="1.234", Balance='"12,50"', CreditScore="619,0".join('""')) for n in range(3)]
    loaded = load(tmp_path, "\n".join([HEADER, *rows]).encode())

    assert loaded.customers["EstimatedSalary"].tolist() == [1_234] * 3
    assert loaded.customers["Balance"].tolist() == [12.5] * 3


def test_points_in_whole_numbers_separate_thousands(tmp_path: Path) -> None:
    rows = [subscriber(1, Outages="1.250", TotalCharges="1.000"), subscriber(2, Outages="1.000", TotalCharges="12.500")]
    rows = [{**row, "DataUsage": "", "MonthlyCharge": "37"} for row in rows]
    loaded = load(tmp_path, csv_of(rows).encode(), SUBSCRIBERS)

    assert loaded.customers["Outages"].tolist() == [1_250, 1_000]
    assert loaded.customers["TotalCharges"].tolist() == [1_000, 12_500]


def test_a_number_in_the_other_format_is_quarantined(tmp_path: Path) -> None:
    rows = [bank_row(n, Balance='"12,50"') for n in range(5)]
    loaded = load(tmp_path, "\n".join([HEADER, *rows, bank_row(9, Balance="12.5")]).encode())

    assert loaded.quarantined["row"].tolist() == [6]
    assert loaded.quarantined["reasons"][0].startswith("Balance is written with a decimal point, unlike the others")


def test_the_schema_decides_between_two_readings(tmp_path: Path) -> None:
    content = "\n".join([HEADER, bank_row(EstimatedSalary='"1,234"')]).encode()

    with pytest.raises(CustomersFileError, match=r"may separate thousands or decimals.*data_set"):
        load(tmp_path, content)
    assert load(tmp_path, content, replace(BANK, decimal=",")).customers["EstimatedSalary"].tolist() == [1.234]
    assert load(tmp_path, content, replace(BANK, decimal=".")).customers["EstimatedSalary"].tolist() == [1_234]


@pytest.mark.parametrize(
    ("written", "days"),
    [
        (["2025-08-31", "2025/9/1", "2025-09-02 00:00:00", "2025-09-03T10:11:12Z"], [831, 901, 902, 903]),
        (["31.08.2025", "1.9.2025"], [831, 901]),
        (["31/08/2025", "01/09/2025"], [831, 901]),
        (["08/31/2025", "09/01/2025"], [831, 901]),
    ],
)
def test_dates_are_read_in_the_order_that_the_column_shows(tmp_path: Path, written: list[str], days: list[int]) -> None:
    loaded = load(
        tmp_path, csv_of([subscriber(n, SignupDate=text) for n, text in enumerate(written)]).encode(), SUBSCRIBERS
    )

    assert [each.month * 100 + each.day for each in loaded.customers["SignupDate"]] == days


def test_dates_that_can_be_read_in_two_ways_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CustomersFileError, match="order of day and month is not known"):
        load(tmp_path, csv_of([subscriber(SignupDate="01/02/2025")]).encode(), SUBSCRIBERS)


@pytest.mark.parametrize("text", ["2025-02-30", "soon", "20250831", "2009-12-31"])
def test_a_wrong_date_is_quarantined(tmp_path: Path, text: str) -> None:
    rows = [subscriber(1), subscriber(2, SignupDate=text), subscriber(3)]
    loaded = load(tmp_path, csv_of(rows).encode(), SUBSCRIBERS)

    assert loaded.quarantined["row"].tolist() == [2]
    assert "SignupDate is " in loaded.quarantined["reasons"][0]


@BOTH
def test_gzip_is_unpacked(tmp_path: Path, schema: CustomerSchema, file: str) -> None:
    content = gzip.compress(Path(file).read_bytes())
    loaded = load(tmp_path, content, schema)

    pd.testing.assert_frame_equal(loaded.customers, load_customers(file, schema).customers)
    assert detected(loaded).endswith("compressed with gzip")
    with pytest.raises(MalformedFileError, match="cannot be unpacked"):
        load(tmp_path, content[:100], schema)


@BOTH
def test_parquet_is_read_with_its_types_and_with_texts(tmp_path: Path, schema: CustomerSchema, file: str) -> None:
    expected = load_customers(file, schema).customers
    texts = texts_of(file)
    for table in (
        pa.Table.from_pandas(expected),
        pa.Table.from_pylist([dict(zip(texts[0], row, strict=True)) for row in texts[1:]]),
    ):
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        loaded = load(tmp_path, buffer.getvalue(), schema)

        pd.testing.assert_frame_equal(loaded.customers, expected)
        assert detected(loaded) == "Parquet"


def test_parquet_with_booleans_dictionaries_decimals_and_dates_is_read(tmp_path: Path) -> None:
    rows = [subscriber(1), subscriber(2)]
    table = pa.Table.from_pylist(rows)
    for name, values in {
        "PaperlessBilling": pa.array([True, False]),
        "Plan": pa.array(["Basic", "Family"]).dictionary_encode(),
        "MonthlyCharge": pa.array(["37.50", "1.25"]).cast(pa.decimal128(10, 2)),
        "SignupDate": pa.array([date(2025, 8, 31), date(2025, 9, 1)]),
        "LastContact": pa.array([None, None]),
    }.items():
        table = table.set_column(table.column_names.index(name), name, values)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    customers = load(tmp_path, buffer.getvalue(), SUBSCRIBERS).customers

    assert customers["PaperlessBilling"].tolist() == [1, 0]
    assert customers["Plan"].tolist() == ["Basic", "Family"]
    assert customers["MonthlyCharge"].tolist() == [37.5, 1.25]
    assert customers["SignupDate"].tolist() == [pd.Timestamp(2025, 8, 31), pd.Timestamp(2025, 9, 1)]
    assert customers["LastContact"].isna().all()


def parquet_with(**columns: object) -> bytes:
    """Return a file of three subscribers in which these columns have other values."""
    table = pa.Table.from_pylist([subscriber(1), subscriber(2), subscriber(3)])
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_bytes_uuids_and_large_floats_of_parquet_are_read_as_a_csv_file_has_them() -> None:
    def texts(values: object) -> list[str]:
        table, _ = open_parquet("customers", parquet_with(SubscriberId=values)).texts([0])
        found: list[str] = table.column("0").to_pylist()
        return found

    uuids = [UUID(int=each) for each in (1, 2, 3)]
    assert texts(pa.array([b"S-1", b"S-2", b"S-\xc3\xa9"])) == ["S-1", "S-2", "S-é"]
    assert texts(pa.array([each.bytes for each in uuids], pa.uuid())) == [str(each) for each in uuids]
    assert texts(pa.array([1e15, 2.0**53 - 1, -0.0])) == ["1000000000000000", "9007199254740991", "0"]
    assert texts(pa.array([0.1, None, 3.0], pa.float32())) == ["0.1", None, "3"]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([["Basic"]] * 3),
        pa.array([b"\xff"] * 3),
        pa.array([b"12345678"] * 3, pa.binary(8)),
        pa.array([timedelta(1)] * 3),
        pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 3).cast(pa.timestamp("us", tz="Mars/Olympus")),
    ],
    ids=["lists", "bytes", "fixed bytes", "durations", "unknown time zone"],
)
def test_a_parquet_column_that_is_no_text_number_or_date_is_named(tmp_path: Path, values: object) -> None:
    with pytest.raises(MalformedFileError, match="column 'Plan' is of type") as raised:
        load(tmp_path, parquet_with(Plan=values), SUBSCRIBERS)

    assert "2026" not in str(raised.value)
    assert "Basic" not in str(raised.value)


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MalformedFileError, match="Parquet file, but cannot be read"):
        load(tmp_path, b"PAR1 and no more")


@pytest.mark.parametrize("write", [workbook, open_document], ids=["Excel", "OpenDocument"])
def test_the_sheet_of_a_workbook_that_has_the_customers_is_read(
    tmp_path: Path, write: Callable[[dict[str, list[list[Cell]]]], bytes]
) -> None:
    row: dict[str, Cell] = {
        **subscriber(1),
        "SignupDate": date(2025, 8, 31),
        "MonthlyCharge": 37.51,
        "Devices": 4,
        "PaperlessBilling": True,
        "LastContact": None,
    }
    sheets: dict[str, list[list[Cell]]] = {
        "Notes": [["Exported by the billing system"]],
        "Customers": [list(row), list(row.values()), [None] * len(row), list(subscriber(2).values())],
    }
    loaded = load(tmp_path, write(sheets), SUBSCRIBERS)

    assert detected(loaded) == "Workbook, sheet 'Customers' of 2"
    customers = loaded.customers
    assert customers["SubscriberId"].tolist() == ["S-200001", "S-200002"]
    assert customers["SignupDate"].tolist() == [pd.Timestamp(2025, 8, 31)] * 2
    assert customers[["MonthlyCharge", "Devices", "PaperlessBilling"]].iloc[0].tolist() == [37.51, 4, 1]
    assert customers["LastContact"].isna().tolist() == [True, False]


def test_a_wrong_value_of_a_workbook_is_quarantined_with_its_row(tmp_path: Path) -> None:
    rows = [subscriber(1), subscriber(2, MonthlyCharge="-1"), subscriber(3)]
    loaded = load(tmp_path, workbook({"A": [list(rows[0]), *(list(row.values()) for row in rows)]}), SUBSCRIBERS)

    assert loaded.quarantined["row"].tolist() == [2]


@pytest.mark.parametrize("content", [b"PK\x03\x04 no archive", b"\xd0\xcf\x11\xe0 no workbook"])
def test_a_file_that_is_no_workbook_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(MalformedFileError, match="zip archive or a workbook that cannot be read"):
        load(tmp_path, content)


def test_an_error_in_a_workbook_names_the_row_and_the_sheet(tmp_path: Path) -> None:
    row = subscriber(1, SupportCalls="many")
    with pytest.raises(CustomersFileError, match=r"row 1 \(not shown"):
        load(tmp_path, workbook({"A": [list(row), list(row.values())]}), SUBSCRIBERS)
    with pytest.raises(CustomersFileError, match="the first row of sheet 'A' lacks the column Region"):
        load(tmp_path, workbook({"A": [[name for name in row if name != "Region"]]}), SUBSCRIBERS)


def folder_with_files(folder: Path) -> dict[str, bytes]:
    """Write and return three files with customers, of which one row and one id is there twice, and other files."""
    files = {
        "2026/a.csv": "\n".join([HEADER, bank_row(1), bank_row(2)]).encode(),
        "2026/b.csv.gz": gzip.compress("\n".join([HEADER, bank_row(2), bank_row(3)]).replace(",", ";").encode()),
        "c.csv": "\n".join([HEADER, bank_row(3, Tenure="9"), bank_row(4), bank_row(5, Age="7")]).encode(),
        "README.md": b"no customers",
        "_SUCCESS": b"",
        ".hidden.csv": b"no customers",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return files


def assert_files_of_folder(loaded: CustomersFile) -> None:
    assert list(loaded.detected) == ["2026/a.csv", "2026/b.csv.gz", "c.csv"]
    assert [each % 100 for each in loaded.customers["CustomerId"]] == [1, 2, 3, 4]
    assert loaded.customers["RowNumber"].tolist() == [1, 2, 4, 6]
    assert loaded.duplicates == 1
    assert loaded.quarantined[["file", "row"]].to_numpy().tolist() == [["c.csv", 1], ["c.csv", 3]]


def test_the_files_below_a_folder_are_read_as_one(tmp_path: Path) -> None:
    folder_with_files(tmp_path)
    loaded = load_customers(tmp_path, BANK)

    assert_files_of_folder(loaded)
    assert loaded.sha256 == fingerprint(tmp_path)
    (tmp_path / "c.csv").rename(tmp_path / "d.csv")
    assert loaded.sha256 != fingerprint(tmp_path)


def test_a_folder_without_customers_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CustomersFileMissingError, match="There is no customers file at"):
        load_customers(tmp_path, BANK)
    (tmp_path / "README.md").touch()
    with pytest.raises(CustomersFileMissingError, match=r"Expected files that end with \.csv"):
        load_customers(tmp_path, BANK)


def test_files_and_folders_in_s3_are_read(tmp_path: Path, s3_root: str) -> None:
    for name, content in folder_with_files(tmp_path).items():
        artifacts.write_bytes(f"{s3_root}/customers/{name}", content)
    artifacts.write_bytes(f"{s3_root}/customers-2/other.csv", b"of another folder")

    folder = load_customers(f"{s3_root}/customers", BANK)
    assert_files_of_folder(folder)
    assert folder.sha256 == fingerprint(f"{s3_root}/customers/") == load_customers(tmp_path, BANK).sha256
    file = load_customers(f"{s3_root}/customers/2026/a.csv", BANK)
    assert file.sha256 == fingerprint(tmp_path / "2026/a.csv")
    assert len(file.customers) == 2
    with pytest.raises(CustomersFileMissingError, match="no customers file at s3://"):
        load_customers(f"{s3_root}/absent.csv", BANK)


def test_the_version_of_a_file_changes_with_its_content(tmp_path: Path, s3_root: str) -> None:
    path = str(customers_file(tmp_path, HEADER))
    for uri in (path, f"{s3_root}/customers.csv"):
        artifacts.write_bytes(uri, b"one")
        (first,) = artifacts.find_files(uri)
        artifacts.write_bytes(uri, b"other")
        (second,) = artifacts.find_files(uri)

        assert first.uri == second.uri == uri
        assert first.version != second.version
    assert artifacts.find_files(f"{s3_root}/customers") == artifacts.find_files(f"{tmp_path}/absent") == []
