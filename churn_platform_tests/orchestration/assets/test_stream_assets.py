"""The stream's assets and the metrics: their materializations, checks and runs."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from churn_platform.orchestration.console_logger import CONFIG
from churn_platform.orchestration.partitions import hour_key
from churn_platform.orchestration.run_liveness import LANE_TAG
from churn_platform.settings import settings
from churn_platform_tests.orchestration.assets.graph import Assets, materializations
from churn_platform_tests.stream.streams import event


@pytest.mark.slow
def test_a_batch_reports_its_offsets_counts_and_model(assets: Assets) -> None:
    risky = [event(number, NumOfProducts=4, Age=60, Geography="Germany", Gender="Female") for number in range(20)]
    first = event(100)
    assets.send(first, *risky, *(event(number) for number in range(101, 130)), b"bad", first)

    key, run = assets.stream()

    shown = materializations(run, "churn_predictions")[key]
    rows = assets.connection.execute(
        "select kafka_partition, kafka_offset, customer_id, model_version from churn_predictions order by 2, 1"
    ).fetchall()
    counted = {name: shown[name] for name in ("events", "predictions", "dead_letters", "duplicates")}
    assert counted == {"events": 52, "predictions": 50, "dead_letters": 1, "duplicates": 1}
    assert sum(each["offsets"] for each in shown["offset_ranges"]) == 52  # type: ignore[attr-defined]  # a value of metadata
    assert shown["model_version"] == 7
    assert str(shown["model_in_mlflow"]).endswith("/models/churn_prediction/versions/7")
    assert shown["mode"] == "stream"
    assert float(str(shown["event_to_row_p50_ms"])) > 0
    assert (
        [
            (each["kafka_partition"], each["kafka_offset"], each["customer_id"], each["model_version"])
            for each in shown["preview"]  # type: ignore[attr-defined]  # a value of metadata
        ]
        == rows[: settings().dagster.preview_rows]
    )
    assert assets.tags(run) == {
        "churn/topic": settings().topics.events,
        "churn/lane": "0",
        "churn/mode": "stream",
        "churn/model_version": "7",
    }


@pytest.mark.slow
def test_a_batch_reports_what_it_added_to_the_other_tables(assets: Assets) -> None:
    assets.send(event(1), b"bad", b"bad", event(2, Age=17))
    key, run = assets.stream()

    (dead_letters,) = materializations(run, "dead_letter_events").values()
    high_risk = assets.connection.execute("select count(*) from high_risk_customers").fetchone()

    assert dead_letters["dead_letters"] == 3
    assert dead_letters["batch"] == key
    assert [each["events"] for each in dead_letters["reasons"]] == [2, 1]  # type: ignore[attr-defined]  # a value of metadata
    assert ("high_risk_customers" in {e.asset_key.to_user_string() for e in _assets_of(run)}) == (high_risk != (0,))


def _assets_of(run: dg.ExecuteInProcessResult) -> list[dg.AssetMaterialization]:
    return [event.materialization for event in run.get_asset_materialization_events()]


@pytest.mark.slow
def test_the_check_keeps_its_result_after_a_run_without_events(assets: Assets) -> None:
    assets.send(event(1), event(2), b"bad")
    key, _ = assets.stream()
    found = "2 predictions + 1 dead letters + 0 duplicates + 0 erased = 3"
    result = f"Found: {found}. Expected: the 3 events that were read."
    assert (assets.check().passed, assets.check().description) == (True, result)

    _, idle = assets.stream()

    assert idle.success
    assert materializations(idle, "churn_predictions") == {}
    assert assets.tags(idle)["churn/mode"] == "idle"
    latest = assets.instance.get_latest_materialization_event(dg.AssetKey("churn_predictions"))
    target = assets.check().target_materialization_data
    assert latest is not None
    assert target is not None
    assert target.run_id == latest.run_id
    assert assets.check().description == f"No new events: no events arrived. Batch {key}: {result}"


@pytest.mark.slow
def test_several_batches_are_replayed_by_one_run_and_each_reports_it(assets: Assets) -> None:
    keys = []
    for number in range(2):
        assets.send(event(number), event(number + 10))
        keys.append(assets.stream()[0])

    run = assets.run_window("prediction_stream_job", *keys)

    shown = materializations(run, "churn_predictions")
    assert shown.keys() == set(keys)
    assert {(each["events"], each["replays"], each["mode"]) for each in shown.values()} == {(2, 1, "replay")}
    assert assets.tags(run)["churn/mode"] == "replay"
    assert assets.check().metadata["events"].value == 4


def test_a_run_has_the_lane_that_the_sensor_gave_it_in_its_log_and_any_run_in_its_tags(
    assets: Assets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    settings.cache_clear()
    assets.send(event(1))
    key = assets.plan()

    streamed = assets.run("prediction_stream_job", partition_key=key, run_config=CONFIG, tags={LANE_TAG: "0"})
    replayed = assets.run("prediction_stream_job", partition_key=key, run_config=CONFIG)

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (ended,) = [each for each in lines if "Ended by" in each["message"]]
    assert (ended["batch"], ended["run"], ended["lane"]) == (key, streamed.run_id, "0")
    (replay,) = [each for each in lines if f"Replayed {key}" in each["message"]]
    assert (replay["batch"], replay["run"]) == (key, replayed.run_id)
    assert "lane" not in replay
    assert [assets.tags(run)[LANE_TAG] for run in (streamed, replayed)] == ["0", "0"]


def test_each_hour_of_a_window_reports_its_own_metrics_and_batches(assets: Assets) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [now - timedelta(hours=ago) for ago in (3, 2, 1)]
    for hour, count in ((hours[0], 3), (hours[2], 2)):
        assets.send(*(event(number, event_timestamp=hour.isoformat()) for number in range(count)))
    key, _ = assets.stream()

    run = assets.run_window("hourly_metrics_job", hour_key(hours[0]), hour_key(hours[2]))

    shown = materializations(run, "churn_metrics_hourly")
    assert [shown[hour_key(hour)]["predictions"] for hour in hours] == [3, 0, 2]
    assert [shown[hour_key(hour)]["dagster/partition_row_count"] for hour in hours] == [1, 0, 1]
    assert shown[hour_key(hours[0])]["newest_batches"] == [{"batch": key, "predictions": 3}]
    assert "newest_batches" not in shown[hour_key(hours[1])]

    daily = assets.run("daily_metrics_job", partition_key=f"{now:%Y-%m-%d}")

    (day,) = materializations(daily, "churn_metrics_daily").values()
    of_today = sum(count for hour, count in ((hours[0], 3), (hours[2], 2)) if hour.date() == now.date())
    assert day["predictions"] == of_today
