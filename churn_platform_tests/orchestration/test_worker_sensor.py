"""The worker sensor: each observation of the worker is reported once."""

from dataclasses import dataclass

import dagster as dg
import psycopg
import pytest

from churn_platform.database import worker_observations
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.worker_sensor import worker_sensor


@dataclass
class Sensor:
    """The sensor, with its cursor."""

    cursor: str | None = None

    def tick(self) -> tuple[dict[str, dict[str, object]], str]:
        """Return the metadata of each asset that is reported, and why nothing is."""
        with dg.build_sensor_context(cursor=self.cursor, resources={"postgres": PostgresResource()}) as context:
            found = worker_sensor(context)
        if isinstance(found, dg.SkipReason):
            return {}, str(found.skip_message)
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor
        return {
            event.asset_key.to_user_string(): {name: value.value for name, value in event.metadata.items()}
            for event in found.asset_events or []
        }, ""


def test_an_observation_is_reported_once_and_again_when_it_changes(platform: str) -> None:
    sensor = Sensor()
    assert sensor.tick() == ({}, "The worker has found nothing new.")
    with psycopg.connect(platform, autocommit=True) as connection:
        worker_observations.observe(connection, "retention_cases", {"open_cases": 3})
        worker_observations.observe(connection, "call_list", {"listed": 2, "day": "2026-11-24"})
        found, _ = sensor.tick()
        assert found["retention_cases"]["open_cases"] == 3
        assert found["call_list"]["day"] == "2026-11-24"
        assert {"observed_at"} <= found["call_list"].keys()
        assert sensor.tick()[0] == {}

        worker_observations.observe(connection, "retention_cases", {"open_cases": 3})
        assert sensor.tick()[0] == {}
        worker_observations.observe(connection, "retention_cases", {"open_cases": 4})
        assert sensor.tick()[0].keys() == {"retention_cases"}


def test_a_database_that_is_down_is_a_reason_to_skip(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from churn_platform.settings import settings

    monkeypatch.setenv("DATABASE_URL", platform.replace("port=", "port=1"))
    settings.cache_clear()

    assert "PostgreSQL does not answer" in Sensor().tick()[1]
    monkeypatch.undo()
    settings.cache_clear()
