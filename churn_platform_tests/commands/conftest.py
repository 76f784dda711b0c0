"""The stream that the commands find."""

from collections.abc import Iterator

import psycopg
import pytest

from churn_platform.settings import settings
from churn_platform.storage import model_versions
from churn_platform.streaming import topics
from churn_platform.streaming.config import StreamConfig
from churn_platform_tests.streaming.stream import Stream


@pytest.fixture
def stream(platform: str, bundle_uri: str) -> Iterator[Stream]:
    """The stream of the settings, with a champion and empty topics."""
    with psycopg.connect(platform) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
    with Stream(StreamConfig.from_settings(settings())) as stream:
        topics.create_missing(stream.admin, stream.config)
        yield stream
