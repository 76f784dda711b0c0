"""Columns in pieces become the columns that they were, and files of several blocks are read as one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.schema.csv_file import BATCHES, CsvFile
from churn_platform.schema.pieces import SAMPLE_ROWS, Pieces, all_different, joined, joined_as_categories
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


def test_texts_that_repeat_are_held_as_categories() -> None:
    texts = np.array(["a", None, "b", "a"] * SAMPLE_ROWS, object)
    pieces = pieces_of(texts, np.array(["c"], object))

    assert all(isinstance(piece, pd.Categorical) and piece.codes.dtype == np.int8 for piece in pieces.arrays)
    categories = joined_as_categories([pieces_of(texts), pieces])
    assert categories is not None
    assert categories.codes.dtype == np.int8
    assert categories.categories.tolist() == ["a", "b", "c"]
    assert categories.astype(object).tolist()[-3:] == ["b", "a", "c"]
    assert joined([pieces_of(texts)]).tolist() == texts.tolist()


def test_texts_that_hardly_repeat_are_held_as_they_are() -> None:
    texts = np.array([f"name {number}" for number in range(SAMPLE_ROWS + 1)], object)
    pieces = pieces_of(texts)

    assert joined_as_categories([pieces]) is None
    assert joined([pieces]).tolist() == texts.tolist()


def test_numbers_and_dates_of_two_files_share_a_type() -> None:
    assert joined([pieces_of(np.array([1], np.int64)), pieces_of(np.array([np.nan]))]).dtype == np.float64


@pytest.mark.parametrize("dtype", ["int64", "object"])
@pytest.mark.parametrize("far", [2, 2**60])
def test_equal_values_are_found(dtype: str, far: int) -> None:
    assert all_different(np.array([3, 1, far], dtype))
    assert not all_different(np.array([3, 1, far, 3], dtype))
    assert all_different(np.array([], dtype))


def test_equal_numbers_of_one_byte_are_found() -> None:
    numbers = np.arange(-128, 128).astype(np.int8)

    assert all_different(numbers)
    assert not all_different(np.append(numbers, np.int8(127)))


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
