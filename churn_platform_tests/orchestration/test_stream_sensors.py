"""The stream's sensors on a real Dagster instance, with real Kafka and PostgreSQL."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import psycopg
import pytest
from confluent_kafka import Producer

from churn_platform.database import (
    advisory_locks,
    batch_hours,
    environments,
    model_versions,
    stream_batches,
    stream_layouts,
    stream_pauses,
)
from churn_platform.database.stream_layouts import Layout
from churn_platform.definitions import defs
from churn_platform.environments import created_topics
from churn_platform.environments.exceptions import EnvironmentConflictError
from churn_platform.lanes import Lane, LanesError
from churn_platform.local.stack import Stack
from churn_platform.operations import status
from churn_platform.orchestration.partitions import batches, day_key, hour_key
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.run_liveness import DEAD_SECONDS, LANE_TAG, STREAM_TAG
from churn_platform.orchestration.run_requests import RANGE_END_TAG, RANGE_START_TAG
from churn_platform.orchestration.spark import ENGINE_TAG
from churn_platform.orchestration.stream_sensors import customer_events_sensor, dirty_hours_sensor
from churn_platform.settings import settings
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.stream.streams import admin_client, event
from churn_platform_tests.waiting import wait_until


@dataclass
class Ticks:
    """A platform with topics and a champion; evaluates its sensors."""

    instance: dg.DagsterInstance
    database: str
    cursor: str | None = None

    def tick(self, sensor: dg.SensorDefinition = customer_events_sensor) -> dg.SensorResult:
        """Evaluate a sensor as the daemon does."""
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            definitions=defs,
            resources={"postgres": PostgresResource(), "kafka": KafkaResource()},
        ) as context:
            result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return dg.SensorResult(skip_reason=result)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor or self.cursor
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        return result

    def reason(self, sensor: dg.SensorDefinition = customer_events_sensor) -> str:
        """Evaluate a sensor that requests no run, and return its skip reason."""
        result = self.tick(sensor)
        assert not result.run_requests
        return str(result.skip_reason.skip_message if result.skip_reason else "")

    def send(self, count: int) -> None:
        """Send events."""
        producer = Producer({**settings().kafka_client, "acks": "all"})
        for number in range(count):
            producer.produce(settings().topics.events, json.dumps(event(number)).encode(), key=str(number))
        assert producer.flush(30) == 0

    def age_what_is_missing(self, *, seconds: float) -> None:
        """Move back the times at which runs were first seen without a session."""
        state = json.loads(self.cursor or "{}")
        state["missing"] = {run_id: since - seconds for run_id, since in state["missing"].items()}
        self.cursor = json.dumps(state)

    def connect(self) -> psycopg.Connection:
        """Return a connection in autocommit mode."""
        return psycopg.connect(self.database, autocommit=True)

    def run_of(self, key: str, status: dg.DagsterRunStatus, *, started: float) -> dg.DagsterRun:
        """Create a streaming run of the sensor that started `started` seconds ago."""
        run: dg.DagsterRun = self.instance.create_run_for_job(
            defs.resolve_job_def("prediction_stream_job"),
            tags={STREAM_TAG: "live", "dagster/partition": key},
            status=status,
        )
        run_event = dg.DagsterEvent(
            event_type_value="PIPELINE_START", job_name="prediction_stream_job", message="started"
        )
        self.instance.report_dagster_event(run_event, run.run_id, timestamp=time.time() - started)
        return run


@pytest.fixture
def ticks(platform: str, bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    """Sensors of a platform with empty topics and a champion, where no run is live without events."""
    monkeypatch.setenv("IDLE_SECONDS", "60")
    settings.cache_clear()
    created_topics.create_missing(admin_client(settings().kafka_client), KafkaResource().stream())
    with psycopg.connect(platform) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticks(instance, platform)


@pytest.mark.usefixtures("platform")
def test_the_skip_reason_names_a_missing_topic() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert settings().topics.events in Ticks(instance, "").reason()


def test_no_run_is_requested_without_a_lag(ticks: Ticks) -> None:
    assert "0 offsets waiting" in ticks.reason()


def test_a_run_is_requested_before_the_first_event_by_default(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IDLE_SECONDS")
    settings.cache_clear()

    result = ticks.tick()

    assert len(result.run_requests or []) == 1


@pytest.mark.parametrize(("waiting", "engine"), [(9, None), (10, "spark")])
def test_a_large_backlog_is_left_to_spark(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch, waiting: int, engine: str | None
) -> None:
    monkeypatch.setenv("SPARK_BACKLOG_FROM", "10")
    settings.cache_clear()
    ticks.send(waiting)

    (request,) = ticks.tick().run_requests or []

    assert request.tags.get(ENGINE_TAG) == engine


def test_after_a_failed_run_the_stream_reads_a_large_backlog_itself(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_BACKLOG_FROM", "10")
    settings.cache_clear()
    ticks.send(10)
    key = str((ticks.tick().run_requests or [])[0].partition_key)
    ticks.instance.report_run_failed(ticks.run_of(key, dg.DagsterRunStatus.STARTED, started=60))

    (request,) = ticks.tick().run_requests or []

    assert ENGINE_TAG not in request.tags


def test_each_tick_records_its_environment(ticks: Ticks) -> None:
    ticks.tick()

    with ticks.connect() as connection:
        assert list(environments.running(connection)) == [settings().platform.environment_name]


def test_a_sensor_of_another_environment_fails_before_it_writes(
    ticks: Ticks, stack: Stack, template_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks.tick()
    with ticks.connect() as connection:
        first = environments.identify(connection)
    second = copy_database(stack, template_database)
    monkeypatch.setenv("DATABASE_URL", second)
    settings.cache_clear()

    with pytest.raises(EnvironmentConflictError, match=f"belongs to environment {first}"):
        Ticks(ticks.instance, second).tick()

    assert f"belongs to environment {first}" in " ".join(status.collect_status(KafkaResource().stream()).problems)
    with psycopg.connect(second) as connection:
        assert environments.running(connection) == {}
        assert connection.execute("select count(*) from stream_positions").fetchone() == (0,)


def test_new_events_request_one_run_with_a_planned_key(ticks: Ticks) -> None:
    ticks.send(5)

    result = ticks.tick()

    assert result.run_requests is not None
    [request] = result.run_requests
    assert request.run_key is None
    assert request.partition_key is not None
    planned_at = datetime.strptime(request.partition_key, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - planned_at) < timedelta(minutes=1)
    assert ticks.instance.get_dynamic_partitions(str(batches.name)) == [request.partition_key]
    with ticks.connect() as connection:
        planned = stream_batches.find_batch(connection, request.partition_key)
    assert planned is not None
    assert planned.opened is None


def test_a_key_that_no_run_opened_is_reused(ticks: Ticks) -> None:
    ticks.send(5)

    first, second = ticks.tick(), ticks.tick()

    assert first.run_requests is not None
    assert second.run_requests is not None
    assert first.run_requests[0].partition_key == second.run_requests[0].partition_key


def test_without_a_champion_the_skip_reason_names_the_asset_to_materialize(ticks: Ticks) -> None:
    with ticks.connect() as connection:
        connection.execute("update model_versions set retired_at = now()")
    ticks.send(5)

    assert "champion_model" in ticks.reason()


def test_a_run_with_a_session_is_left_running_whatever_its_age(ticks: Ticks) -> None:
    ticks.send(5)
    run = ticks.run_of("key", dg.DagsterRunStatus.STARTED, started=3600)

    with psycopg.connect(ticks.database, application_name=advisory_locks.session_name(run.run_id)):
        assert "ready for its first event" in ticks.reason()

    assert not _run(ticks, run).is_finished


def test_a_run_without_a_process_is_marked_as_failed_and_replaced(ticks: Ticks) -> None:
    ticks.send(5)
    run = ticks.run_of("key", dg.DagsterRunStatus.STARTED, started=3600)

    assert "starting" in ticks.reason()
    assert not _run(ticks, run).is_finished
    ticks.age_what_is_missing(seconds=DEAD_SECONDS + 1)
    result = ticks.tick()

    assert _run(ticks, run).status == dg.DagsterRunStatus.FAILURE
    assert len(result.run_requests or []) == 1


def test_a_run_that_reconnected_is_not_dead(ticks: Ticks) -> None:
    ticks.send(5)
    run = ticks.run_of("key", dg.DagsterRunStatus.STARTED, started=3600)
    ticks.tick()
    with psycopg.connect(ticks.database, application_name=advisory_locks.session_name(run.run_id)):
        ticks.tick()

    assert "missing" in str(ticks.cursor)
    ticks.age_what_is_missing(seconds=DEAD_SECONDS + 1)
    ticks.tick()

    assert not _run(ticks, run).is_finished


def test_a_run_that_holds_its_lock_is_not_marked_as_failed_even_if_its_session_was_not_seen(ticks: Ticks) -> None:
    ticks.send(5)
    run = ticks.run_of("key", dg.DagsterRunStatus.STARTED, started=3600)
    ticks.tick()
    ticks.age_what_is_missing(seconds=DEAD_SECONDS + 1)

    with ticks.connect() as connected_since:
        advisory_locks.lock_run(connected_since, run.run_id)
        ticks.tick()
        assert not _run(ticks, run).is_finished
    ticks.tick()

    assert _run(ticks, run).status == dg.DagsterRunStatus.FAILURE


def test_a_run_unknown_to_its_launcher_is_marked_as_failed_much_later(ticks: Ticks) -> None:
    ticks.send(5)
    run = ticks.instance.create_run_for_job(
        defs.resolve_job_def("prediction_stream_job"),
        tags={STREAM_TAG: "live", "dagster/partition": "key"},
        status=dg.DagsterRunStatus.STARTING,
    )
    ticks.tick()

    ticks.age_what_is_missing(seconds=DEAD_SECONDS + 1)
    ticks.tick()
    assert not _run(ticks, run).is_finished
    ticks.age_what_is_missing(seconds=settings().dagster.run_start_timeout_seconds)
    ticks.tick()

    assert _run(ticks, run).status == dg.DagsterRunStatus.FAILURE


def test_a_run_whose_batch_is_closed_continues_and_another_one_streams(ticks: Ticks) -> None:
    ticks.send(5)
    run = ticks.run_of("closed", dg.DagsterRunStatus.STARTED, started=3600)
    with ticks.connect() as connection:
        stream_batches.plan_batch(connection, "closed")
        connection.execute("update stream_batches set opened = now(), closed = now() where batch = 'closed'")

    with psycopg.connect(ticks.database, application_name=advisory_locks.run_session_name(run.run_id)):
        ticks.tick()
        ticks.age_what_is_missing(seconds=DEAD_SECONDS + 1)
        result = ticks.tick()

    assert len(result.run_requests or []) == 1
    assert not _run(ticks, run).is_finished


def test_a_paused_stream_gets_no_run_until_it_is_resumed(ticks: Ticks) -> None:
    ticks.send(5)
    with ticks.connect() as connection:
        stream_pauses.pause(connection, settings().topics.events)
        paused = ticks.reason()
        stream_pauses.resume(connection, settings().topics.events)

    assert "churn stream resume" in paused
    assert len(ticks.tick().run_requests or []) == 1


def test_a_standby_is_requested_while_events_arrive(ticks: Ticks) -> None:
    ticks.tick()  # registers the topic's positions
    run = ticks.run_of("live", dg.DagsterRunStatus.STARTED, started=30)
    with (
        ticks.connect() as connection,
        psycopg.connect(ticks.database, application_name=advisory_locks.session_name(run.run_id)),
    ):
        stream_batches.plan_batch(connection, "live")
        connection.execute("update stream_batches set opened = now(), last_commit = now() where batch = 'live'")

        result = ticks.tick()

    assert result.run_requests is not None
    assert [request.partition_key != "live" for request in result.run_requests] == [True]


def with_lanes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the number of lanes."""
    monkeypatch.setenv("LANES", str(count))
    settings.cache_clear()


def test_each_lane_gets_a_run_and_a_batch_of_its_own(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    with_lanes(3, monkeypatch)
    ticks.send(30)

    requests = ticks.tick().run_requests or []

    keys = [str(request.partition_key) for request in requests]
    assert [request.tags[LANE_TAG] for request in requests] == ["0", "1", "2"]
    assert [key.rpartition("Z-")[2] for key in keys] == ["0", "1", "2"]
    with ticks.connect() as connection:
        assert stream_batches.lanes_of(connection, keys) == {key: Lane(3, number) for number, key in enumerate(keys)}
        assert stream_layouts.layout(connection, settings().topics.events) == Layout(lanes=1, wanted=3)


def test_a_lane_with_a_live_run_gets_no_second_one_while_others_do(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_lanes(2, monkeypatch)
    ticks.send(30)
    (first, second) = [str(request.partition_key) for request in ticks.tick().run_requests or []]
    run = ticks.run_of(second, dg.DagsterRunStatus.STARTED, started=30)

    with psycopg.connect(ticks.database, application_name=advisory_locks.session_name(run.run_id)):
        result = ticks.tick()

    assert [request.partition_key for request in result.run_requests or []] == [first]


def test_failures_of_a_lane_delay_the_runs_of_no_other(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    with_lanes(2, monkeypatch)
    ticks.send(30)
    (first, second) = [str(request.partition_key) for request in ticks.tick().run_requests or []]
    for _ in range(3):
        ticks.instance.report_run_failed(ticks.run_of(first, dg.DagsterRunStatus.STARTED, started=30))

    result = ticks.tick()

    assert [request.partition_key for request in result.run_requests or []] == [second]


def test_a_batch_that_a_dead_run_of_a_lane_left_open_is_resumed(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    with_lanes(2, monkeypatch)
    with ticks.connect() as connection:
        stream_batches.plan_batch(connection, "left-open", Lane(2, 1))
        connection.execute("update stream_batches set opened = now() where batch = 'left-open'")

    result = ticks.tick()

    assert [request.partition_key for request in result.run_requests or []] == ["left-open"]


def test_more_lanes_than_partitions_are_refused(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    with_lanes(4, monkeypatch)

    with pytest.raises(LanesError, match=r"LANES is 4, but the topic .* has 3 partitions"):
        ticks.tick()


def test_a_batch_that_a_dead_run_left_open_is_resumed_even_without_a_lag(ticks: Ticks) -> None:
    with ticks.connect() as connection:
        stream_batches.plan_batch(connection, "left-open")
        connection.execute("update stream_batches set opened = now() where batch = 'left-open'")

    result = ticks.tick()

    assert [request.partition_key for request in result.run_requests or []] == ["left-open"]


def test_a_batch_whose_run_died_before_reporting_it_is_reported_until_dagster_has_stored_it(ticks: Ticks) -> None:
    with ticks.connect() as connection:
        stream_batches.plan_batch(connection, "lost")
        connection.execute(
            "update stream_batches set opened = now(), closed = now(), run_id = 'gone' where batch = 'lost'"
        )

    not_stored, again = _reported(ticks.tick()), _reported(ticks.tick())
    ticks.instance.report_runless_asset_event(again[0])
    after = _reported(ticks.tick())

    assert [each.partition for each in not_stored] == ["lost"]
    assert [each.partition for each in again] == ["lost"]
    assert after == []
    with ticks.connect() as connection:
        assert stream_batches.unreported_batches(connection) == []


def test_the_lag_is_observed_after_the_run_for_the_first_events_was_requested(ticks: Ticks) -> None:
    ticks.tick()
    ticks.send(7)
    launching = ticks.tick()
    ticks.run_of("key", dg.DagsterRunStatus.STARTING, started=0)

    events = ticks.tick().asset_events

    assert not launching.asset_events
    lags = {
        each.asset_key.to_user_string(): each.metadata["lag"].value
        for each in events
        if isinstance(each, dg.AssetObservation)
    }
    assert lags == {"customer_events": 7, "churn_predictions_topic": 0}


def test_offsets_behind_an_open_transaction_are_reported_with_its_age(ticks: Ticks) -> None:
    ticks.tick()
    producer = Producer({**settings().kafka_client, "transactional.id": f"of {settings().topics.events}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in range(4):
        producer.produce(settings().topics.events, json.dumps(event(number)).encode(), partition=0)
    producer.flush(30)

    result = ticks.tick()
    state = json.loads(ticks.cursor or "{}")
    state["stuck"] = {partition: [end, since - 90] for partition, (end, since) in state["stuck"].items()}
    ticks.cursor = json.dumps(state)
    reason = ticks.reason()
    producer.abort_transaction(30)

    (lag,) = (
        each.metadata
        for each in result.asset_events
        if isinstance(each, dg.AssetObservation) and each.asset_key.to_user_string() == "customer_events"
    )
    assert (lag["lag"].value, lag["behind_open_transactions"].value) == (0, 4)
    assert "4 more behind a transaction that is open for 9" in reason
    wait_until(lambda: "more behind" not in str(ticks.tick().skip_reason))


def test_no_run_is_requested_if_all_hours_are_up_to_date(ticks: Ticks) -> None:
    assert ticks.reason(dirty_hours_sensor) == "Every hour and day is up to date."


def test_dirty_hours_close_together_are_one_run_and_a_distant_one_is_another(ticks: Ticks) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [now - timedelta(hours=30), now - timedelta(hours=1), now]
    with ticks.connect() as connection:
        batch_hours.mark_dirty(connection, hours)

    result = ticks.tick(dirty_hours_sensor)

    assert result.run_requests is not None
    late, recent = result.run_requests
    assert late.partition_key == hour_key(hours[0])
    assert recent.tags[RANGE_START_TAG] == hour_key(hours[1])
    assert recent.tags[RANGE_END_TAG] == hour_key(hours[2])


def test_an_hour_that_changed_makes_its_day_dirty(ticks: Ticks) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with ticks.connect() as connection:
        connection.execute(
            "insert into churn_metrics_hourly "
            "(hour_timestamp, total_predictions, churn_count, high_risk_count, age_count, version) "
            "values (%s, 1, 0, 0, 1, 1)",
            (hour,),
        )

    result = ticks.tick(dirty_hours_sensor)

    assert [(request.job_name, request.partition_key) for request in result.run_requests or []] == [
        ("daily_metrics_job", day_key(hour))
    ]


@pytest.mark.parametrize(("age", "jobs"), [(2, []), (6, ["hourly_metrics_job"])])
def test_an_hour_that_goes_on_changing_is_updated_more_rarely_than_it_is_computed_first(
    ticks: Ticks, age: int, jobs: list[str]
) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    updated = timedelta(seconds=age * settings().metrics.refresh_seconds)
    with ticks.connect() as connection:
        batch_hours.mark_dirty(connection, [hour])
        batch_hours.mark_dirty(connection, [hour])
        connection.execute(
            "insert into churn_metrics_hourly (hour_timestamp, total_predictions, churn_count, high_risk_count, "
            "age_count, version, updated_at) values (%s, 1, 0, 0, 1, 1, now() - %s)",
            (hour, updated),
        )
        connection.execute(
            "insert into churn_metrics_daily (date, total_predictions, churn_count, high_risk_count, age_count, "
            "version, updated_at) values (%s, 1, 0, 0, 1, 1, now() - %s)",
            (hour.date(), updated),
        )

    assert [request.job_name for request in ticks.tick(dirty_hours_sensor).run_requests or []] == jobs


def test_metrics_that_are_being_computed_are_not_requested_twice(ticks: Ticks) -> None:
    with ticks.connect() as connection:
        batch_hours.mark_dirty(connection, [datetime.now(UTC).replace(minute=0, second=0, microsecond=0)])
    ticks.instance.create_run_for_job(defs.resolve_job_def("hourly_metrics_job"), status=dg.DagsterRunStatus.STARTED)

    assert "in progress" in ticks.reason(dirty_hours_sensor)


def test_metrics_wait_one_tick_while_another_run_starts(ticks: Ticks) -> None:
    with ticks.connect() as connection:
        batch_hours.mark_dirty(connection, [datetime.now(UTC).replace(minute=0, second=0, microsecond=0)])
    ticks.instance.create_run_for_job(defs.resolve_job_def("training_job"), status=dg.DagsterRunStatus.STARTING)

    assert "Another run is starting" in ticks.reason(dirty_hours_sensor)
    assert ticks.tick(dirty_hours_sensor).run_requests
    assert "Another run is starting" in ticks.reason(dirty_hours_sensor)


def test_metrics_wait_one_tick_for_the_standby_of_a_run_that_has_just_taken_over(ticks: Ticks) -> None:
    with ticks.connect() as connection:
        batch_hours.mark_dirty(connection, [datetime.now(UTC).replace(minute=0, second=0, microsecond=0)])
        stream_batches.plan_batch(connection, "live")
        connection.execute("update stream_batches set opened = now(), last_commit = now() where batch = 'live'")

    assert "Another run is starting" in ticks.reason(dirty_hours_sensor)
    assert ticks.tick(dirty_hours_sensor).run_requests


def _reported(result: dg.SensorResult) -> list[dg.AssetMaterialization]:
    return [each for each in result.asset_events if isinstance(each, dg.AssetMaterialization)]


def _run(ticks: Ticks, run: dg.DagsterRun) -> dg.DagsterRun:
    found = ticks.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found
