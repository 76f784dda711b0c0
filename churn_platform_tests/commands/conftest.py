"""Fixtures of the commands: a stream, or an empty database."""

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database import model_versions
from churn_platform.environments import created_topics
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.stream.streams import Stream


@pytest.fixture
def stream(platform: str, bundle_uri: str) -> Iterator[Stream]:
    """The stream of the settings, with a champion and empty topics."""
    with psycopg.connect(platform) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
    with Stream(StreamConfig.from_settings(settings())) as stream:
        created_topics.create_missing(stream.admin, stream.config)
        yield stream


@pytest.fixture
def logins(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Settings with an empty database, its owner, its own topics, and two logins that do not exist yet.

    The database and the logins stay, because dropping them would wait for a checkpoint.
    """
    server = conninfo_to_dict(stack.owner_dsn)
    suffix = secrets.token_hex(4)
    names = {"DATABASE_URL": f"app_{suffix}", "DATABASE_READER_URL": f"people_{suffix}"}
    place = f"{server['host']}:{server['port']}/prepare_{suffix}"
    urls = {variable: f"postgresql://{name}:{secrets.token_hex(8)}@{place}" for variable, name in names.items()}
    urls["DATABASE_OWNER_URL"] = f"postgresql://{server['user']}:{server['password']}@{place}"
    kafka = {"EVENTS_TOPIC": f"in-{suffix}", "PREDICTIONS_TOPIC": f"out-{suffix}", "STREAM_GROUP": f"group-{suffix}"}
    for variable, value in {**urls, **kafka}.items():
        monkeypatch.setenv(variable, value)
    settings.cache_clear()
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(f"prepare_{suffix}")))
    yield urls
    monkeypatch.undo()
    settings.cache_clear()
