"""Fixtures of erasures: a platform whose every place holds a customer."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database import model_versions
from churn_platform.deployment.dagster_home import STORAGE
from churn_platform.environments import created_topics
from churn_platform.local.environment import ARTIFACTS_VARIABLE
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.conftest import forget_settings
from churn_platform_tests.operations.erasure.lives import Life
from churn_platform_tests.stream.streams import Stream


@pytest.fixture
def life(
    platform: str, bundle_uri: str, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Life]:
    """The platform of the settings, with a customer in every place."""
    root, home = tmp_path / "artifacts", tmp_path / "dagster"
    home.mkdir()
    name = str(conninfo_to_dict(platform)["dbname"])
    address = urlsplit(stack.addresses["postgres"])._replace(path=f"/{name}").geturl()
    monkeypatch.setenv(ARTIFACTS_VARIABLE, str(root))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", in_schema(address, "dagster"))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    (home / "dagster.yaml").write_text(f"telemetry:\n  enabled: false\n{STORAGE}")
    forget_settings()
    with psycopg.connect(platform) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
    with dg.DagsterInstance.get() as instance, Stream(StreamConfig.from_settings(settings())) as stream:
        created_topics.create_missing(stream.admin, stream.config)
        life = Life(stream, root, instance)
        life.begin()
        yield life
    monkeypatch.undo()
    forget_settings()
