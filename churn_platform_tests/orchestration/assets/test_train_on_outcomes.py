"""Data preparation with and without outcomes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from churn_platform.database import stored_outcomes
from churn_platform.definitions import build_defs
from churn_platform.modeling.outcome_rows import WEIGHT
from churn_platform.orchestration.assets.training_inputs import OUTCOMES_HASH, changes
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.settings import SettingsError, load_settings, settings
from churn_platform_tests.orchestration.assets.graph import Assets, materializations
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team, new_team

OLD = timedelta(days=70)


@pytest.fixture
def team(assets: Assets, bank_schema: CustomerSchema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    """Predictions of two customers whose outcome is known, and a customers file without them."""
    write_customers(generate_customers(400, 3), tmp_path / "customers.csv")
    monkeypatch.setenv("CHURN_RAW_CSV", str(tmp_path / "customers.csv"))
    monkeypatch.setenv("CHURN_ARTIFACTS", str(tmp_path / "artifacts"))
    settings.cache_clear()
    team = new_team(assets.connection, bank_schema)
    team.ledger.commit([Scored(1, 0.2, ago=OLD), Scored(2, 0.3, ago=OLD)])
    now = datetime.now(UTC)
    with assets.connection.transaction():
        outcomes = [("topic", 0, each, None, each, each % 2, now - each % 2 * timedelta(days=20)) for each in (1, 2)]
        stored_outcomes.insert_all(assets.connection, outcomes)
    return team


def prepare(assets: Assets, tmp_path: Path) -> tuple[dg.ExecuteInProcessResult, pd.DataFrame, bytes]:
    """Run data preparation as the settings say; return the run, the split customers, and their file."""
    job = build_defs(load_settings()).resolve_job_def("data_preparation_job")
    result = job.execute_in_process(instance=assets.instance)
    file = tmp_path / "artifacts" / "assets" / "train_test_split.parquet"
    return result, pd.read_parquet(file), file.read_bytes()


def test_labelled_customers_join_the_training_split_only_when_that_is_on(
    assets: Assets, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bank_schema: CustomerSchema
) -> None:
    _, without, content = prepare(assets, tmp_path)
    assert not without["CustomerId"].isin([1, 2]).any()
    assert WEIGHT not in without
    monkeypatch.setenv("TRAIN_ON_OUTCOMES", "true")
    settings.cache_clear()

    result, split, _ = prepare(assets, tmp_path)

    assert split[split["CustomerId"].isin([1, 2])][["CustomerId", "split", "Exited", WEIGHT]].to_numpy().tolist() == [
        [1, "train", 1, 1.0],
        [2, "train", 0, 1.0],
    ]
    assert len(split) == len(without) + 2
    (metadata,) = materializations(result, "labelled_customers").values()
    assert (metadata["dagster/row_count"], metadata["left"], metadata["controls"]) == (2, 1, 0)
    (of_split,) = materializations(result, "train_test_split").values()
    assert of_split[OUTCOMES_HASH] == metadata[OUTCOMES_HASH]
    assert changes(assets.instance, bank_schema, revision="r") == ["no model has been trained yet"]

    monkeypatch.setenv("TRAIN_ON_OUTCOMES", "false")
    settings.cache_clear()
    assert prepare(assets, tmp_path)[2] == content  # off: what was stored, byte for byte
    assert team.rows("select count(*) from customer_outcomes") == [(2,)]


def test_outcomes_that_are_known_only_after_predictions_are_archived_are_an_error(
    assets: Assets, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert team.ledger.position == 2
    monkeypatch.setenv("TRAIN_ON_OUTCOMES", "true")
    monkeypatch.setenv("OUTCOME_DAYS", "90")
    settings.cache_clear()

    with pytest.raises(SettingsError, match="Set ARCHIVE_DAYS above OUTCOME_DAYS"):
        prepare(assets, tmp_path)


def test_outcomes_without_a_control_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_ON_OUTCOMES", "true")
    monkeypatch.setenv("CONTROL_SHARE", "0")

    with pytest.raises(SettingsError, match="nobody stands for the customers who are called"):
        load_settings()
