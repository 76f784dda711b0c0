"""A stream of its own for each test: a database and topics that nobody else uses, and a champion."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import make_conninfo

from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.storage import model_versions
from churn_platform.storage.migrations import upgrade
from churn_platform.streaming import topics
from churn_platform.streaming.config import StreamConfig
from churn_platform_tests.modeling.bundles import small_bundle
from churn_platform_tests.streaming.stream import Stream

_number = itertools.count(1)


@pytest.fixture(scope="session")
def bundle_uri(local_folder: Path) -> str:
    """A saved bundle."""
    uri = str(local_folder / "bundle")
    small_bundle().save(uri)
    return uri


@pytest.fixture(scope="session")
def template_database(stack: Stack) -> str:
    """A migrated database that tests copy theirs from."""
    assert stack.is_up
    name = "stream_template"
    with psycopg.connect(settings().postgres_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    upgrade(make_conninfo(settings().postgres_dsn, dbname=name))
    return name


@pytest.fixture
def stream(template_database: str, bundle_uri: str) -> Iterator[Stream]:
    """A stream with a champion and empty topics of three partitions."""
    number = next(_number)
    database = f"stream_{number}"
    with psycopg.connect(settings().postgres_dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(
                sql.Identifier(database), sql.Identifier(template_database)
            )
        )
    config = replace(
        StreamConfig.from_settings(settings()),
        dsn=make_conninfo(settings().postgres_dsn, dbname=database),
        events_topic=f"events-{number}",
        predictions_topic=f"predictions-{number}",
        group=f"group-{number}",
        retention=timedelta(days=14),
        idle_seconds=0.5,
        linger=0.005,
    )
    topics.create_missing(AdminClient(config.kafka), config)
    with psycopg.connect(config.dsn) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
    with Stream(config) as stream:
        yield stream
