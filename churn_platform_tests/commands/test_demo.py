"""`churn demo --schema FILE`: the settings with which the platform uses another data set."""

from pathlib import Path

import pytest

from churn_platform.commands.demo import settings_for
from churn_platform.schema.exceptions import SchemaError
from churn_platform.settings import PROJECT_ROOT, Settings

BANK, SUBSCRIBERS = (PROJECT_ROOT / "data" / name / "schema.toml" for name in ("bank", "subscribers"))


@pytest.fixture(autouse=True)
def no_customers_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHURN_RAW_CSV", raising=False)


def chosen(**variables: str) -> Settings:
    return Settings.from_variables(variables)


def test_another_data_set_gets_its_customers_and_a_folder_of_its_own(tmp_path: Path) -> None:
    found = settings_for(SUBSCRIBERS, chosen(CHURN_LOCAL=str(tmp_path / "state"), CHURN_RAW_CSV="mine.csv"))

    assert found == {
        "CHURN_SCHEMA": str(SUBSCRIBERS),
        "CHURN_LOCAL": str(tmp_path / "state-subscribers"),
        "CHURN_RAW_CSV": str(SUBSCRIBERS.with_name("subscribers.csv")),
    }


def test_the_schema_of_the_settings_keeps_its_folder_and_customers(tmp_path: Path) -> None:
    assert settings_for(BANK, chosen(CHURN_LOCAL=str(tmp_path), CHURN_RAW_CSV="mine.csv")) == {
        "CHURN_SCHEMA": str(BANK)
    }


def test_a_relative_path_is_that_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SUBSCRIBERS.parent)

    assert settings_for(Path("schema.toml"), chosen())["CHURN_SCHEMA"] == str(SUBSCRIBERS)


def test_customers_of_the_environment_take_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURN_RAW_CSV", "mine.csv")

    assert "CHURN_RAW_CSV" not in settings_for(SUBSCRIBERS, chosen())


def test_a_schema_that_is_not_valid_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="There is no customer schema"):
        settings_for(tmp_path / "none.toml", chosen())
