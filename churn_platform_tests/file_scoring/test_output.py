"""Scores as CSV, Excel and Parquet, and the rejected rows beside them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.file_scoring.exceptions import ScoreFileError
from churn_platform.file_scoring.output import rejected_place, write_scores
from churn_platform.file_scoring.scoring import ScoredFile, score_file
from churn_platform.files.spreadsheets import TooManyRowsError
from churn_platform.model_store import save_bundle
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.stream.scoring import Champion
from churn_platform_tests.features.customers import BANK
from churn_platform_tests.file_scoring.conftest import THRESHOLD

# Scores a file in a process of its own, and prints its peak memory in MiB.
MEASURED = """
import sys
from pathlib import Path
from benchmarks.batch_step import peak_mb
from churn_platform.file_scoring.output import write_scores
from churn_platform.file_scoring.scoring import score_file
from churn_platform.model_store import load_bundle
from churn_platform.schema.toml_file import load_schema
from churn_platform.stream.scoring import Champion

bundle = load_bundle(sys.argv[1])
with score_file(sys.argv[2], bundle.schema, Champion(1, bundle), high_risk_threshold=0.7) as scored:
    write_scores(scored, bundle.schema, sys.argv[3])
print(peak_mb())
"""


@pytest.mark.parametrize("form", ["csv", "xlsx", "parquet"])
def test_each_form_has_the_same_scores_in_the_order_of_the_file(
    form: str, file: Path, champion: Champion, tmp_path: Path
) -> None:
    place = tmp_path / f"scores.{form}"

    with score_file(str(file), BANK, champion, high_risk_threshold=THRESHOLD) as scored:
        write_scores(scored, BANK, str(place))
        (block,) = scored.blocks()

    if form == "xlsx":
        found = pd.read_excel(place, engine="calamine")
    else:
        found = pd.read_csv(place) if form == "csv" else pd.read_parquet(place)
    assert list(found) == [
        "CustomerId", "risk_score", "risk_band", "rank", "prediction", "model_version", "reasons",
    ]  # fmt: skip
    assert found["CustomerId"].tolist() == block.customer_id.tolist()
    assert found["risk_score"].astype(np.float32).tolist() == block.risk_score.tolist()
    assert found["rank"].tolist() == block.rank.tolist()
    assert found["prediction"].tolist() == (block.risk_score >= champion.bundle.threshold).astype(int).tolist()
    assert set(found["model_version"]) == {7}
    assert (found["risk_band"] == "high").tolist() == found["reasons"].notna().tolist()
    assert found["reasons"].dropna().str.contains("raises the risk").all()


def test_rejected_rows_are_beside_the_scores(file: Path, champion: Champion, tmp_path: Path) -> None:
    place = tmp_path / "out" / "scores.parquet"

    with score_file(str(file), BANK, champion, high_risk_threshold=THRESHOLD) as scored:
        write_scores(scored, BANK, str(place))

    rejected = pd.read_csv(rejected_place(str(place)))
    assert rejected_place(str(place)) == str(tmp_path / "out" / "scores.parquet.rejected.csv")
    assert list(rejected) == ["file", "row", "values", "reasons"]
    assert len(rejected) == scored.rejected > 0
    assert set(rejected["reasons"]) == {"Gender is missing: expected Female or Male"}


def test_more_customers_than_an_excel_sheet_has_rows_are_refused(
    file: Path, champion: Champion, tmp_path: Path
) -> None:
    with score_file(str(file), BANK, champion, high_risk_threshold=THRESHOLD) as scored:
        scored.customers = 1_048_576
        with pytest.raises(TooManyRowsError, match="1,048,576"):
            write_scores(scored, BANK, str(tmp_path / "scores.xlsx"))

    assert not (tmp_path / "scores.xlsx").exists()


@pytest.mark.parametrize("name", ["scores", "scores.json", "scores.parquet.gz"])
def test_another_form_is_refused(name: str, tmp_path: Path) -> None:
    unscored = ScoredFile(tmp_path, 1, 0.5, 0.7, pd.Timestamp.now("UTC").to_pydatetime())

    with pytest.raises(ScoreFileError, match=r"\.csv, \.xlsx, \.parquet"):
        write_scores(unscored, BANK, name)


def test_a_place_that_cannot_be_written_is_an_error(file: Path, champion: Champion, tmp_path: Path) -> None:
    (tmp_path / "scores").write_text("a file where a folder should be")

    with (
        score_file(str(file), BANK, champion, high_risk_threshold=THRESHOLD) as scored,
        pytest.raises(ScoreFileError, match="cannot be written"),
    ):
        write_scores(scored, BANK, str(tmp_path / "scores" / "scores.csv"))


@pytest.mark.slow
def test_a_file_of_five_times_the_size_needs_little_more_memory(champion: Champion, tmp_path: Path) -> None:
    save_bundle(champion.bundle, str(tmp_path / "bundle"))
    peaks = []
    for customers in (200_000, 1_000_000):
        write_customers(generate_customers(customers, 5), tmp_path / "customers.csv")
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, tmp_path / "bundle", tmp_path / "customers.csv", tmp_path / "scores.csv"],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(float(done.stdout))

    # 30 bytes of each customer, and as much again while they are sorted.
    assert peaks[1] - peaks[0] < 60, peaks
