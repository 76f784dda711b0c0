"""One champion at a time, whichever version it is, in a real database."""

from collections.abc import Iterator

import psycopg
import pytest

from churn_platform.local.stack import Stack
from churn_platform.storage import model_versions
from churn_platform.storage.model_versions import ModelVersionError


@pytest.fixture
def connection(stack: Stack) -> Iterator[psycopg.Connection]:
    """An empty model_versions that nobody else sees; all is rolled back."""
    with psycopg.connect(stack.addresses["postgres"]) as connection, connection.transaction(force_rollback=True):
        connection.execute("delete from model_versions")
        yield connection


def register(connection: psycopg.Connection, *versions: int) -> None:
    """Register versions as different runs'."""
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


def test_the_database_itself_allows_one_champion_only(connection: psycopg.Connection) -> None:
    register(connection, 1, 2)
    model_versions.promote(connection, 1)

    with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        connection.execute("update model_versions set promoted_at = now() where version = 2")


def test_registering_again_changes_nothing_unless_it_is_another_run(connection: psycopg.Connection) -> None:
    register(connection, 1, 1)

    with pytest.raises(ModelVersionError, match="that version from run run 1 already"):
        model_versions.register(connection, version=1, uri="/models/x", run_id="another", metrics={})


def test_later_figures_join_the_earlier_ones(connection: psycopg.Connection) -> None:
    register(connection, 1)

    model_versions.record_metrics(connection, 1, {"roc_auc": 0.85})

    assert model_versions.get(connection, 1).metrics == {"oof_f1": 0.6, "roc_auc": 0.85}
    with pytest.raises(ModelVersionError, match="version 2 is not"):
        model_versions.record_metrics(connection, 2, {})
