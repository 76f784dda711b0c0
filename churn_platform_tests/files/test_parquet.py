"""Frames come back from Parquet as they were written."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from churn_platform.files.parquet import MAX_CATEGORIES, ROW_GROUP_SIZE, from_parquet, read_parquet, to_parquet


def frame_of(rows: int) -> pd.DataFrame:
    numbers = np.arange(rows)
    frame = pd.DataFrame(
        {
            "id": numbers,
            "small": (numbers % 7).astype(np.int8),
            "amount": np.where(numbers % 5 == 0, np.nan, numbers / 3),
            "country": np.array([None, "France", "Spain"], object)[numbers % 3],
            "day": np.datetime64("2026-01-01", "s") + numbers.astype("timedelta64[D]"),
            "nothing": np.full(rows, None, dtype=object),
        }
    )
    frame.attrs = {"sha256": "0f", "rows": rows}
    return frame


@pytest.mark.parametrize("rows", [0, 1, 1_000, ROW_GROUP_SIZE + 10])
def test_a_frame_comes_back_with_its_types_and_attributes(rows: int) -> None:
    frame = frame_of(rows)

    stored = from_parquet(to_parquet(frame))

    pd.testing.assert_frame_equal(stored, frame)
    assert stored.attrs == frame.attrs


def test_the_same_frame_gives_the_same_bytes() -> None:
    assert to_parquet(frame_of(1_000)) == to_parquet(frame_of(1_000))


def test_a_text_that_is_missing_in_the_first_rows_is_a_text() -> None:
    frame = pd.DataFrame({"name": [None] * 20_000 + ["last"]}, dtype=object)

    pd.testing.assert_frame_equal(from_parquet(to_parquet(frame)), frame)


def test_objects_other_than_texts_keep_their_types() -> None:
    frame = pd.DataFrame({"mixed": pd.Series([1, 2.5], dtype=object), "parts": [["a"], ["b", "c"]]})

    stored = from_parquet(to_parquet(frame))

    assert stored["mixed"].tolist() == [1, 2.5]
    assert [list(each) for each in stored["parts"]] == [["a"], ["b", "c"]]


def test_equal_texts_are_one_object() -> None:
    stored = from_parquet(to_parquet(pd.DataFrame({"name": ["Anna", "Ben", "Anna"]})))["name"]

    assert stored[0] is stored[2]


def test_texts_that_repeat_are_read_as_categories() -> None:
    frame = frame_of(ROW_GROUP_SIZE + 10)

    stored = read_parquet(io.BytesIO(to_parquet(frame)), categorical=True)

    assert str(stored["country"].dtype) == "category"
    assert stored["country"].cat.codes.dtype == np.int8
    assert stored["country"].cat.categories.tolist() == ["France", "Spain"]
    pd.testing.assert_frame_equal(stored, frame.astype({"country": stored["country"].dtype}))


def test_more_texts_than_two_bytes_number_are_objects() -> None:
    frame = pd.DataFrame({"name": [f"name {number}" for number in range(MAX_CATEGORIES)]})

    stored = read_parquet(io.BytesIO(to_parquet(frame)), categorical=True)

    pd.testing.assert_frame_equal(stored, frame)


@pytest.mark.parametrize("rows", [0, 1, 1_000])
def test_categories_are_stored_as_texts(rows: int) -> None:
    frame = frame_of(rows)
    categorical = frame.astype({"country": pd.CategoricalDtype(["Spain", "Italy", "France"])})

    stored = to_parquet(categorical)

    pd.testing.assert_frame_equal(from_parquet(stored), frame)
    pd.testing.assert_series_equal(pd.read_parquet(io.BytesIO(stored))["country"], frame["country"])


@pytest.mark.parametrize("columns", [["country"], ["amount", "unknown"]])
def test_some_columns_are_read(columns: Sequence[str]) -> None:
    frame = frame_of(100)

    stored = read_parquet(io.BytesIO(to_parquet(frame)), columns)

    pd.testing.assert_frame_equal(stored, frame[[name for name in columns if name in frame]])
