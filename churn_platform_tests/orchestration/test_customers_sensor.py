"""The customers sensor: when it requests a preparation, and why it skips."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from churn_platform.files import artifacts
from churn_platform.modeling.file_attributes import FILE_HASH
from churn_platform.orchestration.customers_sensor import customers_sensor
from churn_platform.orchestration.jobs import data_preparation_job
from churn_platform.schema.reader import fingerprint
from churn_platform.settings import settings


@dataclass
class Sensor:
    """The sensor on an instance, with its cursor."""

    instance: dg.DagsterInstance
    cursor: str | None = None

    def tick(self) -> tuple[list[str], str]:
        """Evaluate the sensor. Return the run keys that it requests, and its skip reason."""
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            found = customers_sensor(context)
        if isinstance(found, dg.SkipReason):
            return [], str(found.skip_message)
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor or self.cursor
        keys = [str(request.run_key) for request in found.run_requests or []]
        return keys, str(found.skip_reason.skip_message) if found.skip_reason else ""


@pytest.fixture
def sensor() -> Iterator[Sensor]:
    with dg.instance_for_test() as instance:
        yield Sensor(instance)


def use(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the settings name this customers file."""
    monkeypatch.setenv("CHURN_RAW_CSV", place)
    settings.cache_clear()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "customers.csv"
    path.write_text("one")
    use(str(path), monkeypatch)
    yield path
    settings.cache_clear()


def test_a_new_file_is_prepared_once_and_again_when_it_changed(sensor: Sensor, file: Path) -> None:
    assert "once it no longer changes" in sensor.tick()[1]
    (key,), _ = sensor.tick()
    assert key.startswith(fingerprint(file))
    assert "has not changed" in sensor.tick()[1]

    file.write_text("another content")
    assert not sensor.tick()[0]
    (second,), _ = sensor.tick()
    assert second.startswith(fingerprint(file))

    file.write_text("one")
    sensor.tick()
    (third,), _ = sensor.tick()
    assert third not in (key, second)


def test_a_file_that_is_still_being_written_is_not_prepared(sensor: Sensor, file: Path) -> None:
    for content in ("a", "ab", "abc"):
        file.write_text(content)
        assert sensor.tick()[0] == []


def test_a_file_that_is_prepared_already_is_not_prepared_again(sensor: Sensor, file: Path) -> None:
    sensor.instance.report_runless_asset_event(
        dg.AssetMaterialization("raw_customers", metadata={FILE_HASH: fingerprint(file)})
    )
    sensor.tick()
    assert "the content that was prepared last" in sensor.tick()[1]
    os.utime(file, (1, 1))
    sensor.tick()
    assert "the content that was prepared last" in sensor.tick()[1]


def test_it_waits_for_a_preparation_in_progress(sensor: Sensor, file: Path) -> None:
    sensor.tick()
    run = dg.DagsterRun(job_name=data_preparation_job.name, status=dg.DagsterRunStatus.STARTED)
    sensor.instance.add_run(run)
    assert file.exists()
    assert "A preparation is in progress" in sensor.tick()[1]
    sensor.instance.report_run_canceled(run)
    assert sensor.tick()[0]


def test_a_missing_file_is_named(sensor: Sensor, file: Path) -> None:
    file.unlink()
    keys, reason = sensor.tick()
    assert not keys
    assert str(file) in reason


def test_files_of_a_folder_in_s3_are_watched_without_reading_them(
    sensor: Sensor, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(f"{s3_root}/customers", monkeypatch)
    assert "no customers file at s3://" in sensor.tick()[1]
    artifacts.write_bytes(f"{s3_root}/customers/a.csv", b"one")
    assert not sensor.tick()[0]
    assert len(sensor.tick()[0]) == 1
    artifacts.write_bytes(f"{s3_root}/customers/README.md", b"no customers")
    assert "has not changed" in sensor.tick()[1]
    artifacts.write_bytes(f"{s3_root}/customers/b.csv", b"two")
    assert not sensor.tick()[0]
    assert len(sensor.tick()[0]) == 1


def test_it_is_off_by_default() -> None:
    assert customers_sensor.default_status == dg.DefaultSensorStatus.STOPPED
