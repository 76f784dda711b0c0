"""The asset that scores every customer of a file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.database import erased_customers
from churn_platform.schema.generator import generate_customers
from churn_platform.settings import settings
from churn_platform_tests.orchestration.assets.graph import Assets, materializations


def test_a_file_is_scored_and_customers_at_risk_are_stored(
    assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "customers.csv"
    customers = generate_customers(1_000, 3)
    customers.to_csv(file, index=False)
    monkeypatch.setenv("SCORING_FILE", str(file))
    monkeypatch.setenv("HIGH_RISK_THRESHOLD", "0.25")
    monkeypatch.setenv("CHURN_ARTIFACTS", str(tmp_path / "artifacts"))
    settings.cache_clear()
    assets.run("customer_scoring_job")
    assets.connection.execute("update customer_file_scores set model_version = 1")

    result = assets.run("customer_scoring_job")

    (metadata,) = materializations(result, "customer_file_scores").values()
    scores = pd.read_parquet(str(metadata["scores"]))
    assert metadata["dagster/row_count"] == len(scores)
    assert metadata["rejected"] == customers["Gender"].isna().sum() == 1_000 - len(scores)
    assert metadata["model_version"] == 7
    risky = scores[scores["risk_score"] >= 0.25]
    left = customers.loc[customers["Exited"] == 1, "CustomerId"]
    expected = risky[~risky["CustomerId"].isin(left)]
    rows = assets.connection.execute(
        "select customer_id, risk_score, model_version, reasons, age, geography from customer_file_scores"
    ).fetchall()
    assert metadata["at_risk"] == len(rows) == len(expected) > 0
    stored = {row[0]: row[1:] for row in rows}
    for row in expected.to_dict("records"):
        risk, version, reasons, _, _ = stored[row["CustomerId"]]
        assert (np.float32(risk), version) == (np.float32(row["risk_score"]), 7)
        assert reasons[0]["feature"] in row["reasons"]
    of_file = customers.set_index("CustomerId")
    for customer, (*_, age, geography) in stored.items():
        assert geography == of_file.loc[customer, "Geography"]
        assert age == (None if pd.isna(of_file.loc[customer, "Age"]) else of_file.loc[customer, "Age"])


def test_an_erased_customer_is_left_out(assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "customers.csv"
    customers = generate_customers(100, 3).dropna(subset=["Gender"])
    customers.assign(Gender=["?", *customers["Gender"].iloc[1:]]).to_csv(file, index=False)
    monkeypatch.setenv("SCORING_FILE", str(file))
    monkeypatch.setenv("HIGH_RISK_THRESHOLD", "0.01")
    monkeypatch.setenv("CHURN_ARTIFACTS", str(tmp_path / "artifacts"))
    settings.cache_clear()
    erased = customers["CustomerId"].iloc[:3].tolist()  # the first one is rejected as well
    with assets.connection.transaction():
        erased_customers.lock(assets.connection)
        for each in erased:
            erased_customers.add(assets.connection, each)

    result = assets.run("customer_scoring_job")

    (metadata,) = materializations(result, "customer_file_scores").values()
    assert (metadata["erased"], metadata["rejected"]) == (3, 0)
    assert set(pd.read_parquet(str(metadata["scores"]))["CustomerId"]) == set(customers["CustomerId"]) - set(erased)
    assert str(erased[0]) not in Path(str(metadata["rejected_rows"])).read_text()
    stored = assets.connection.execute("select customer_id from customer_file_scores").fetchall()
    assert stored
    assert not {each for (each,) in stored} & set(erased)
