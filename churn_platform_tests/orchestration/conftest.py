"""Fixtures: what a code server needs, as a stack provides it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import psycopg
import pytest
import yaml

from churn_platform.database import model_versions
from churn_platform.deployment.dagster_home import STORAGE
from churn_platform.environments import created_topics
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.settings import PROJECT_ROOT, settings
from churn_platform_tests.stream.streams import admin_client


@pytest.fixture
def dagster_home(
    platform: str, stack: Stack, bundle_uri: str, local_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """DAGSTER_HOME with a stack's launcher and storage, of a platform with an empty stream and a champion."""
    monkeypatch.setenv("BATCH_EVENTS", "5")
    monkeypatch.setenv("IDLE_SECONDS", "60")  # without events there is no run
    name = str(psycopg.conninfo.conninfo_to_dict(platform)["dbname"])
    address = urlsplit(stack.addresses["postgres"])._replace(path=f"/{name}").geturl()
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", in_schema(address, "dagster"))
    settings.cache_clear()
    created_topics.create_missing(admin_client(settings().kafka_client), KafkaResource().stream())
    with psycopg.connect(platform) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
    home = Path(tempfile.mkdtemp(dir=local_folder))
    written = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    kept = {name: written[name] for name in ("run_launcher", "run_monitoring", "telemetry")}
    (home / "dagster.yaml").write_text(yaml.safe_dump(kept) + STORAGE)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of DAGSTER_HOME."""
    assert dagster_home.exists()
    with dg.DagsterInstance.get() as instance:
        yield instance
