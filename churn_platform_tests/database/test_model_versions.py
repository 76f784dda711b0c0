"""One champion at a time, in a real database."""

from collections.abc import Iterator

import psycopg
import pytest

from churn_platform.database import model_versions
from churn_platform.database.model_versions import ModelVersionError
from churn_platform.local.stack import Stack


@pytest.fixture
def connection(stack: Stack) -> Iterator[psycopg.Connection]:
    """A transaction with an empty model_versions, which is rolled back."""
    with psycopg.connect(stack.addresses["postgres"]) as connection, connection.transaction(force_rollback=True):
        connection.execute("delete from model_promotions")
        connection.execute("delete from model_versions")
        yield connection


def register(connection: psycopg.Connection, *versions: int) -> None:
    """Register versions, each trained by a different run."""
    for version in versions:
        model_versions.register(
            connection, version=version, uri=f"/models/{version}", run_id=f"run {version}", metrics={"oof_f1": 0.6}
        )


def test_a_registered_version_is_not_champion_before_it_is_promoted(connection: psycopg.Connection) -> None:
    register(connection, 1)
    assert model_versions.champion(connection) is None

    model_versions.promote(connection, 1)

    champion = model_versions.champion(connection)
    assert champion is not None
    assert (champion.version, champion.uri, champion.run_id) == (1, "/models/1", "run 1")
    assert champion.metrics == {"oof_f1": 0.6}


def test_promoting_a_version_retires_the_champion(connection: psycopg.Connection) -> None:
    register(connection, 1, 2)
    model_versions.promote(connection, 1)

    promoted = model_versions.promote(connection, 2)

    assert promoted == model_versions.champion(connection)
    assert promoted.version == 2
    assert model_versions.get(connection, 1).retired_at is not None


def test_a_retired_version_can_come_back(connection: psycopg.Connection) -> None:
    register(connection, 1, 2)
    model_versions.promote(connection, 1)
    model_versions.promote(connection, 2)

    back = model_versions.promote(connection, 1)

    assert back == model_versions.champion(connection)
    assert (back.version, back.retired_at) == (1, None)


def test_rolling_back_goes_one_champion_further_back_each_time(connection: psycopg.Connection) -> None:
    register(connection, 1, 2, 3)
    for version in (1, 2, 3):
        model_versions.promote(connection, version, by="training", reason=f"{version} is better")

    left, back = model_versions.rollback(connection, reason="calls complained")

    assert (left.version, back.version) == (3, 2)
    assert back == model_versions.champion(connection)
    assert model_versions.rollback(connection, reason="again")[1].version == 1
    with pytest.raises(ModelVersionError, match="no champion before version 1"):
        model_versions.rollback(connection, reason="too far")
    model_versions.promote(connection, 3)
    assert model_versions.rollback(connection, reason="3 once more")[1].version == 1


def test_promotions_are_recorded_with_their_cause_and_reason(connection: psycopg.Connection) -> None:
    register(connection, 1, 2)
    model_versions.promote(connection, 1, by="training", reason="the first")
    model_versions.promote(connection, 2)
    model_versions.promote(connection, 2)

    recorded = connection.execute(
        "select version, promoted_by, reason from model_promotions order by promotion"
    ).fetchall()

    assert recorded == [(1, "training", "the first"), (2, "hand", "chosen by hand")]


def test_promoting_the_champion_changes_nothing(connection: psycopg.Connection) -> None:
    register(connection, 1)

    assert model_versions.promote(connection, 1) == model_versions.promote(connection, 1)


def test_an_unknown_version_cannot_be_promoted_and_the_champion_stays(connection: psycopg.Connection) -> None:
    register(connection, 1)
    model_versions.promote(connection, 1)

    with pytest.raises(ModelVersionError, match="version 9 is not in model_versions"):
        model_versions.promote(connection, 9)

    champion = model_versions.champion(connection)
    assert champion is not None
    assert champion.version == 1


def test_the_database_itself_allows_only_one_champion(connection: psycopg.Connection) -> None:
    register(connection, 1, 2)
    model_versions.promote(connection, 1)

    with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        connection.execute("update model_versions set promoted_at = now() where version = 2")


def test_registering_again_changes_nothing_unless_it_is_another_run(connection: psycopg.Connection) -> None:
    register(connection, 1, 1)

    with pytest.raises(ModelVersionError, match="run run 1 already has that version in model_versions"):
        model_versions.register(connection, version=1, uri="/models/x", run_id="another", metrics={})


def test_later_metrics_are_added_to_the_earlier_ones(connection: psycopg.Connection) -> None:
    register(connection, 1)

    model_versions.record_metrics(connection, 1, {"roc_auc": 0.85})

    assert model_versions.get(connection, 1).metrics == {"oof_f1": 0.6, "roc_auc": 0.85}
    with pytest.raises(ModelVersionError, match="version 2 is not"):
        model_versions.record_metrics(connection, 2, {})
