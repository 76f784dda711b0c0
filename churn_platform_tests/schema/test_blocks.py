"""A file that is read in blocks has the customers, and the rejected rows, that reading all of it at once finds."""

import gzip
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from churn_platform.schema.blocks import CustomerBlock, read_blocks, scored_columns
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import (
    CustomersFileMissingError,
    EmptyCustomersFileError,
    HeaderError,
    MalformedFileError,
    WrongValueError,
)
from churn_platform.schema.generator import generate_customers
from churn_platform.schema.reader import load_customers
from churn_platform.schema.subscribers import generate_subscribers
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS
from churn_platform_tests.schema.workbooks import Cell, workbook

ROWS = 3_000


@pytest.fixture(scope="module")
def bank() -> pd.DataFrame:
    """Customers of the bank, as its file has them."""
    return generate_customers(ROWS, 3)


def together(blocks: list[CustomerBlock], schema: CustomerSchema) -> pd.DataFrame:
    """Return the customers of all blocks."""
    return pd.DataFrame(
        {name: np.concatenate([block.columns[name] for block in blocks]) for name in schema.event_fields}
    )


def read(place: Path, schema: CustomerSchema = BANK) -> tuple[pd.DataFrame, list[tuple[str, int, str, str]]]:
    """Return the customers of a file and the rejected rows."""
    blocks = list(read_blocks(str(place), scored_columns(schema)))
    return together(blocks, schema), [row for block in blocks for row in block.rejected]


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS], ids=lambda schema: schema.name)
def test_the_customers_are_those_that_reading_the_file_at_once_gives(schema: CustomerSchema, tmp_path: Path) -> None:
    file = tmp_path / "customers.csv"
    (generate_customers if schema is BANK else generate_subscribers)(ROWS, 3).to_csv(file, index=False)

    found, rejected = read(file, schema)

    expected = load_customers(file, schema).customers
    without = expected[list(schema.dropped)].isna().any(axis=1)
    expected = expected.loc[~without, list(schema.event_fields)].reset_index(drop=True)
    assert len(rejected) == without.sum()
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_a_file_of_any_format_has_the_same_customers(bank: pd.DataFrame, tmp_path: Path) -> None:
    csv = bank.to_csv(index=False)
    places = {
        "plain.csv": csv.encode(),
        "mark.csv": csv.encode("utf-8-sig"),
        "utf-16.csv": csv.encode("utf-16"),
        "windows.csv": csv.replace("Castro", "Müller").encode("cp1252"),
        "packed.csv.gz": gzip.compress(csv.encode()),
        "german.csv": bank.to_csv(index=False, sep=";", decimal=",").encode(),
        "named.csv": b"sep=;\n" + bank.to_csv(index=False, sep=";").encode(),
        "windows-lines.csv": csv.replace("\n", "\r\n").encode(),
    }
    for name, content in places.items():
        (tmp_path / name).write_bytes(content)
    bank.to_parquet(tmp_path / "customers.parquet")
    cells: list[list[Cell]] = [
        list(bank.columns),
        *([None if pd.isna(cell) else cell for cell in row] for row in bank.to_numpy().tolist()),
    ]
    (tmp_path / "customers.xlsx").write_bytes(workbook({"Customers": cells}))
    expected, rejected = read(tmp_path / "plain.csv")
    assert len(expected) + len(rejected) == ROWS
    assert rejected

    for name in (*places, "customers.parquet", "customers.xlsx"):
        found, also_rejected = read(tmp_path / name)
        pd.testing.assert_frame_equal(found, expected)
        assert [row[1:2] for row in also_rejected] == [row[1:2] for row in rejected], name


def test_a_pipe_is_read(bank: pd.DataFrame, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: bank.to_csv(pipe, index=False))
    writer.start()

    found, rejected = read(pipe)
    writer.join()

    assert len(found) + len(rejected) == ROWS


def test_rejected_rows_have_the_numbers_and_reasons_of_the_whole_file(tmp_path: Path) -> None:
    lines = generate_customers(200_000, 3).to_csv(index=False).splitlines()  # several blocks
    for number in (1, 2, 70_000, 70_001, 150_000, 200_000):
        lines[number] += ",more"
    for number in (3, 71_000, 199_999):
        lines[number] = lines[number].replace("France", "Italy").replace("Spain", "Italy").replace("Germany", "Italy")
    file = tmp_path / "customers.csv"
    file.write_text("\n".join(lines) + "\n")

    found, rejected = read(file)

    expected = load_customers(file, BANK).quarantined
    without_gender = [row for row in rejected if "Gender" in row[3]]
    others = [row for row in rejected if "Gender" not in row[3]]
    assert [row[1] for row in others] == expected["row"].tolist()
    assert [row[3] for row in others] == expected["reasons"].tolist()
    assert len(found) + len(others) + len(without_gender) == 200_000
    assert [row[1] for row in rejected] == sorted(row[1] for row in rejected)


def test_the_target_may_be_missing_or_wrong(bank: pd.DataFrame, tmp_path: Path) -> None:
    with_target, without, wrong = (tmp_path / name for name in ("with.csv", "without.csv", "wrong.csv"))
    bank.to_csv(with_target, index=False)
    bank.drop(columns=BANK.target).to_csv(without, index=False)
    bank.assign(**{BANK.target: "maybe"}).to_csv(wrong, index=False)

    expected, _ = read(with_target)

    for place in (without, wrong):
        pd.testing.assert_frame_equal(read(place)[0], expected)
        assert not any(block.left.any() for block in read_blocks(str(place), scored_columns(BANK)))
    left = sum(int(block.left.sum()) for block in read_blocks(str(with_target), scored_columns(BANK)))
    assert 0 < left <= bank[BANK.target].sum()


def test_dates_are_read_by_the_order_that_the_whole_file_shows(tmp_path: Path) -> None:
    subscribers = generate_subscribers(150_000, 3).dropna(subset=SUBSCRIBERS.dropped)
    (date,) = [column.name for column in SUBSCRIBERS.columns if column.kind == "date"][:1]
    days = pd.to_datetime(subscribers[date]).dt
    ambiguous = subscribers[days.day <= 12]
    clear = subscribers[days.day > 12].head(1)
    ordered = pd.concat([ambiguous, clear])  # the last row shows the order
    file = tmp_path / "subscribers.csv"
    ordered.assign(**{date: pd.to_datetime(ordered[date]).dt.strftime("%d/%m/%Y")}).to_csv(file, index=False)

    found, rejected = read(file, SUBSCRIBERS)

    assert rejected == []
    assert found[date].tolist() == pd.to_datetime(ordered[date]).tolist()


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (b"", EmptyCustomersFileError, "is empty"),
        (b"a,b\n1,2\n", HeaderError, "is not a header"),
        (b"PAR1 but no more", MalformedFileError, "cannot be read"),
        (b"\x1f\x8b broken", MalformedFileError, "cannot be unpacked"),
        (b"PK\x03\x04 broken", MalformedFileError, "cannot be read"),
    ],
)
def test_what_is_no_customers_file_is_an_error(
    content: bytes, error: type[Exception], text: str, tmp_path: Path
) -> None:
    file = tmp_path / "customers.csv"
    file.write_bytes(content)

    with pytest.raises(error, match=text):
        read(file)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CustomersFileMissingError, match="no customers file"):
        read(tmp_path / "none.csv")


def test_a_column_that_is_wrong_as_a_whole_is_one_error(bank: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "customers.csv"
    bank.assign(Age=1980).to_csv(file, index=False)

    with pytest.raises(WrongValueError) as in_blocks:
        read(file)
    with pytest.raises(WrongValueError) as at_once:
        load_customers(file, BANK)

    # Both name what is wrong with the column alike. Scoring also needs the genders, of which some are missing.
    problem = at_once.value.problem.removeprefix(f"{file}: ")
    assert "3,000 of 3,000 values are out of range: '1980' in line 2" in problem
    assert problem in str(in_blocks.value)


def test_a_large_parquet_file_is_read_row_group_by_row_group(bank: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "customers.parquet"
    pq.write_table(pa.Table.from_pandas(bank), file, row_group_size=500)
    bank.to_csv(tmp_path / "customers.csv", index=False)

    pd.testing.assert_frame_equal(read(file)[0], read(tmp_path / "customers.csv")[0])
