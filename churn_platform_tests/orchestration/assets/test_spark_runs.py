"""Runs of Dagster that ask for Spark: its driver is a process of the run and reports to the run's log."""

from collections.abc import Mapping

import dagster as dg
import pytest

from churn_platform.definitions import defs
from churn_platform.orchestration.spark import ENGINE_TAG
from churn_platform.settings import settings
from churn_platform_tests.orchestration.assets.graph import Assets, materializations
from churn_platform_tests.stream.streams import event

BY_CONFIG: dict[str, object] = {"ops": {"churn_predictions": {"config": {"engine": "spark"}}}}


def run(
    assets: Assets, key: str, *, config: dict[str, object] | None = None, tags: Mapping[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    """Materialize a batch."""
    return defs.resolve_job_def("prediction_stream_job").execute_in_process(
        instance=assets.instance, partition_key=key, run_config=config, tags=tags, raise_on_error=False
    )


@pytest.mark.spark
@pytest.mark.timeout(900)
def test_a_run_streams_its_backlog_and_replays_it_with_spark(assets: Assets) -> None:
    assets.send(*(event(number) for number in range(20)), b"bad")
    key = assets.plan()

    backlog = run(assets, key, config=BY_CONFIG)

    assert backlog.success
    (shown,) = materializations(backlog, "churn_predictions").values()
    assert (shown["events"], shown["dead_letters"], shown["mode"]) == (21, 1, "backlog")
    assert assets.tags(backlog)["churn/mode"] == "backlog"
    assert any("Spark has scored 21 events" in each.message for each in assets.instance.all_logs(backlog.run_id))

    replay = run(assets, key, tags={ENGINE_TAG: "spark"})

    assert replay.success
    (shown,) = materializations(replay, "churn_predictions").values()
    assert (shown["events"], shown["replays"], shown["mode"]) == (21, 1, "replay")
    assert assets.check().passed


def test_an_engine_that_does_not_exist_is_refused(assets: Assets) -> None:
    result = run(assets, assets.plan(), tags={ENGINE_TAG: "flink"})

    assert not result.success
    assert any("expected python or spark" in str(each) for each in assets.instance.all_logs(result.run_id))


def test_a_run_without_spark_says_how_to_install_it(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_ENVIRONMENT", "/nonexistent")
    settings.cache_clear()

    result = run(assets, assets.plan(), config=BY_CONFIG)

    assert not result.success
    assert any("make spark" in str(each) for each in assets.instance.all_logs(result.run_id))
