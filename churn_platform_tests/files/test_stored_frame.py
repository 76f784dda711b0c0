"""A stored frame gives what the frame in memory gives, one column or a few rows at a time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.files.parquet import read_parquet, write_frames
from churn_platform.files.stored_frame import StoredColumns, StoredFrame, blocks_of

ROWS = 1_000
GROUP_ROWS = 130
GENERATOR = np.random.default_rng(3)
FRAME = pd.DataFrame(
    {
        "number": GENERATOR.normal(size=ROWS),
        "whole": GENERATOR.integers(0, 9, ROWS),
        "small": GENERATOR.integers(0, 2, ROWS).astype(np.int8),
        "day": np.datetime64("2025-01-01", "s") + GENERATOR.integers(0, 900, ROWS).astype("timedelta64[D]"),
        "text": GENERATOR.choice(np.array(["a", "b", None], dtype=object), ROWS),
        "late": np.array([None] * 500 + ["x"] * 500, dtype=object),
        "empty": np.array([None] * ROWS, dtype=object),
    }
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the frame, in parts, some of which hold texts as categories."""
    path = tmp_path / "frame.parquet"
    blocks = [FRAME.iloc[start : start + GROUP_ROWS] for start in range(0, ROWS, GROUP_ROWS)]
    blocks[2] = blocks[2].assign(text=blocks[2]["text"].astype("category"))
    with path.open("wb") as opened:
        assert write_frames(iter(blocks), opened, {"origin": "test"}) == ROWS
    return path


def test_frames_that_were_written_one_below_the_other_are_one_frame(file: Path) -> None:
    with file.open("rb") as opened:
        found = read_parquet(opened)

    pd.testing.assert_frame_equal(found, FRAME, check_exact=True)
    assert found.attrs == {"origin": "test"}


def test_columns_blocks_and_first_rows_are_those_of_the_frame(file: Path) -> None:
    stored = StoredFrame(str(file), objects=True)

    assert (len(stored), stored.columns, stored.attrs) == (ROWS, [*FRAME], {"origin": "test"})
    assert stored.group_rows == [GROUP_ROWS] * 7 + [ROWS - 7 * GROUP_ROWS]
    for name in FRAME:
        pd.testing.assert_series_equal(stored[str(name)], FRAME[name])
    pd.testing.assert_frame_equal(stored.head(200), FRAME.head(200))
    pd.testing.assert_frame_equal(
        pd.concat(blocks_of(stored, ["day", "whole"]), ignore_index=True), FRAME[["day", "whole"]]
    )
    pd.testing.assert_series_equal(stored.dtypes, FRAME.dtypes)
    assert "missing" not in stored
    with pytest.raises(KeyError):
        stored["missing"]


def test_chosen_rows_are_a_frame_of_their_own(file: Path) -> None:
    chosen = (FRAME["whole"] > 6).to_numpy()
    expected = FRAME[chosen].reset_index(drop=True)

    stored = StoredFrame(str(file), objects=True).only(chosen)

    assert len(stored) == len(expected)
    pd.testing.assert_frame_equal(stored.rows(), expected)
    pd.testing.assert_frame_equal(stored.head(60), expected.head(60))
    pd.testing.assert_frame_equal(pd.concat(stored.blocks(), ignore_index=True), expected)
    wanted = (expected["small"] == 1).to_numpy()
    pd.testing.assert_frame_equal(stored.where_rows(wanted), expected[wanted])


def test_a_sample_has_the_rows_that_pandas_draws(file: Path) -> None:
    stored = StoredFrame(str(file), objects=True)

    pd.testing.assert_frame_equal(stored.sample(90, seed=42), FRAME.sample(90, random_state=42))


def test_columns_are_read_when_they_are_asked_for(file: Path) -> None:
    columns = StoredColumns(StoredFrame(str(file)), ["whole", "text"], {"score": np.ones(ROWS)})

    assert [*columns] == ["whole", "text", "score"]
    np.testing.assert_array_equal(columns["whole"], FRAME["whole"].to_numpy())
    assert columns["score"].sum() == ROWS
    with pytest.raises(KeyError):
        columns["day"]
