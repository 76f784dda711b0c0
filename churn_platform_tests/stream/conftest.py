"""A stream of its own for each test: a database and topics that nobody else uses, and a champion."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from churn_platform.database import model_versions
from churn_platform.environments import created_topics
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.stream.streams import Stream, with_changes

_number = itertools.count(1)


@pytest.fixture
def stream(database: str, bundle_uri: str) -> Iterator[Stream]:
    """A stream with a champion and empty topics of three partitions."""
    with new_stream(database, bundle_uri) as stream:
        yield stream


def new_stream(database: str, bundle_uri: str, **changes: Any) -> Stream:
    """A stream in this database, with a champion and empty topics of three partitions.

    Args:
        changes: fields of its configuration that are to be others.
    """
    number = next(_number)
    base = StreamConfig.from_settings(settings())
    config = replace(
        base,
        dsn=database,
        events_topic=f"events-{number}",
        predictions_topic=f"predictions-{number}",
        kafka=replace(base.kafka, group=f"group-{number}", retention=timedelta(days=14)),
        idle_seconds=0.5,
        linger=0.005,
    )
    config = with_changes(config, **changes)
    created_topics.create_missing(AdminClient(config.kafka.client), config)
    register_champion(config.dsn, bundle_uri)
    return Stream(config)


def register_champion(dsn: str, bundle_uri: str) -> None:
    """Make this bundle the champion of a database."""
    with psycopg.connect(dsn) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
