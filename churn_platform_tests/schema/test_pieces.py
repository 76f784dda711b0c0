"""Columns in pieces become the columns that they were, and files of several blocks are read as one."""

import json
from pathlib import Path

import numpy as np
import pytest

from churn_platform.schema.csv_file import BATCHES, CsvFile
from churn_platform.schema.pieces import Pieces, all_different, joined
from churn_platform.schema.reader import load_customers
from churn_platform_tests.schema.files import BANK, HEADER, bank_row, customers_file

LONG_NAME = 200_000  # characters: 5 such rows are more than 1 MB of text
ROWS = 5 * BATCHES + 40


def pieces_of(*arrays: np.ndarray) -> Pieces:
    pieces = Pieces()
    for each in arrays:
        pieces.append(each)
    return pieces


def test_pieces_keep_their_values_and_their_dtype() -> None:
    arrays = [np.array(values, np.int64) for values in ([1, -1], [], [40_000], [2**40], [7])]

    whole = joined([pieces_of(*arrays[:2]), pieces_of(*arrays[2:])])

    assert whole.dtype == np.int64
    assert whole.tolist() == [1, -1, 40_000, 2**40, 7]


def test_whole_numbers_take_as_little_memory_as_they_need() -> None:
    pieces = pieces_of(np.arange(100, dtype=np.int64), np.arange(1_000, dtype=np.int64), np.array([2**40]))

    assert [each.dtype for each in pieces.arrays] == [np.int8, np.int16, np.int64]


def test_a_row_is_found_in_its_piece() -> None:
    pieces = pieces_of(np.array(["a", "b"], object), np.array([], object), np.array(["c"], object))

    assert [pieces[row] for row in range(3)] == ["a", "b", "c"]
    assert joined([pieces.only(np.array([True, False, True]))]).tolist() == ["a", "c"]


def test_numbers_and_dates_of_two_files_share_a_type() -> None:
    assert joined([pieces_of(np.array([1], np.int64)), pieces_of(np.array([np.nan]))]).dtype == np.float64


@pytest.mark.parametrize("dtype", ["int64", "object"])
def test_equal_values_are_found(dtype: str) -> None:
    assert all_different(np.array([3, 1, 2], dtype))
    assert not all_different(np.array([3, 1, 3], dtype))


def test_a_file_of_several_blocks_is_read_as_one(tmp_path: Path) -> None:
    names = ["n" * LONG_NAME] * ROWS
    wrong = {3: {"Age": "x"}, ROWS - 30: {"CreditScore": "2000"}, ROWS - 20: {"Age": "y"}}
    rows = [bank_row(n, Firstname=names[n], **wrong.get(n, {})) for n in range(ROWS)]
    path = customers_file(tmp_path, HEADER, *rows)
    source = CsvFile.open("customers", path.read_bytes(), known=BANK.names)

    file = load_customers(path, BANK)

    assert len([table for table, _ in source.blocks([0])]) > 2
    assert file.quarantined["row"].tolist() == [number + 1 for number in wrong]
    assert [json.loads(values)["Age"] for values in file.quarantined["values"]][::2] == ["x", "y"]
    assert len(file.customers) == ROWS - len(wrong)
    assert file.customers["RowNumber"].tolist() == [number + 1 for number in range(ROWS) if number not in wrong]
