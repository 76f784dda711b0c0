"""Fixture: a stream with its assets for each test."""

from collections.abc import Iterator

import dagster as dg
import psycopg
import pytest

from churn_platform.database import model_versions
from churn_platform.environments import created_topics
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.settings import settings
from churn_platform_tests.orchestration.assets.graph import Assets
from churn_platform_tests.stream.streams import admin_client


@pytest.fixture
def assets(platform: str, bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Assets]:
    """Empty topics, a champion, and a new instance."""
    monkeypatch.setenv("BATCH_SECONDS", "0.5")
    monkeypatch.setenv("IDLE_SECONDS", "0.5")
    settings.cache_clear()
    created_topics.create_missing(admin_client(settings().kafka_client), KafkaResource().stream())
    with psycopg.connect(platform, autocommit=True) as connection, dg.DagsterInstance.ephemeral() as instance:
        model_versions.register(connection, version=7, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 7)
        yield Assets(instance, connection)
