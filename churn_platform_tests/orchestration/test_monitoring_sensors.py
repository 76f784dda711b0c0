"""The monitoring sensors and the training schedule: which runs they request, and why they skip."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from confluent_kafka import Producer

from churn_platform.database import model_versions
from churn_platform.definitions import defs
from churn_platform.environments import created_topics
from churn_platform.kafka import topics
from churn_platform.modeling.file_attributes import FILE_HASH
from churn_platform.orchestration.assets.training_inputs import (
    REVISION,
    SCHEMA,
    TRAINING_SETTINGS,
    training_settings,
)
from churn_platform.orchestration.jobs import hourly_monitoring_job, retraining_job
from churn_platform.orchestration.monitoring_sensors import REASON_TAG, monitoring_sensor, retraining_sensor
from churn_platform.orchestration.partitions import day_key, hour_key
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.mlflow import code_version
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.schedules import request_training
from churn_platform.schema.current import schema_of
from churn_platform.schema.reader import fingerprint
from churn_platform.settings import settings
from churn_platform_tests.stream.streams import admin_client

HOUR = datetime(2026, 11, 26, 9, tzinfo=UTC)


@dataclass
class Automation:
    """An instance, a database and a customers file."""

    instance: dg.DagsterInstance
    connection: psycopg.Connection
    file: Path
    cursor: str | None = None

    def tick(self, sensor: dg.SensorDefinition) -> tuple[list[dg.RunRequest], str]:
        """Evaluate a sensor. Return the runs that it requests, or its skip reason."""
        resources = {"postgres": PostgresResource(), "kafka": KafkaResource()}
        wanted = {"postgres": resources["postgres"]} if sensor is retraining_sensor else resources
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, definitions=defs, resources=wanted
        ) as context:
            found = sensor(context)
        if isinstance(found, dg.SkipReason):
            return [], str(found.skip_message)
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor or self.cursor
        return list(found.run_requests or []), str(found.skip_reason.skip_message) if found.skip_reason else ""

    def later(self, seconds: float) -> None:
        """Move the times in the cursor back, as if this much time had passed."""
        state = json.loads(self.cursor or "{}")
        state["requested"] = {key: at - seconds for key, at in state["requested"].items()}
        self.cursor = json.dumps(state)

    def outcomes(self, count: int) -> None:
        """Create the outcomes topic if it is missing, and send messages to it."""
        created_topics.create_missing(
            admin_client(settings().kafka_client), KafkaResource().stream(), settings().topics.outcomes
        )
        producer = Producer(settings().kafka_client)
        for _ in range(count):
            producer.produce(settings().topics.outcomes, b"{}")
        assert producer.flush(30) == 0

    def scheduled(self) -> dg.RunRequest | dg.SkipReason:
        """Evaluate the training schedule."""
        found = request_training(dg.build_schedule_context(instance=self.instance))
        assert isinstance(found, dg.RunRequest | dg.SkipReason)
        return found

    def trained(self, **changes: str) -> None:
        """Report the materializations of a training on the current file."""
        file = fingerprint(self.file)
        self.report("train_test_split", **{FILE_HASH: file})
        inputs = {
            FILE_HASH: file,
            SCHEMA: schema_of(settings()).fingerprint,
            TRAINING_SETTINGS: training_settings(),
            REVISION: code_version(),
        }
        self.report("churn_model", **{**inputs, **changes})

    def report(self, asset: str, **metadata: str) -> None:
        """Report a materialization of an asset."""
        self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=metadata))

    def active(self, job: str, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> None:
        """Create a run of this job."""
        self.instance.create_run_for_job(defs.resolve_job_def(job), status=status)

    def predictions(self, hour: datetime) -> None:
        """Insert predictions of an hour, by a batch that was opened long ago."""
        self.connection.execute(
            "insert into stream_batches (batch, opened) values ('a', %s) on conflict do nothing", (HOUR,)
        )
        self.connection.execute("insert into churn_batch_hours values ('a', %s, 5, 1, 1, 0, 5, 5, 5, 5)", (hour,))
        self.connection.execute("insert into dirty_hours values (%s, 1)", (hour,))

    def drift(self, hour: datetime) -> None:
        """Insert the drift of an hour."""
        self.connection.execute(
            "insert into drift_hourly values (%s, 1, 'Age', 1, 1, '{1}', 0, 0, 1, 'stable', 0, 0, 1)", (hour,)
        )

    def too_low(self, day: datetime) -> None:
        """Insert a live performance that is too low."""
        self.connection.execute(
            "insert into live_performance (date, model_version, window_days, labelled, churned, roc_auc, "
            "roc_auc_error, expected_roc_auc, brier, ece, mean_score, churn_rate) "
            "values (%s, 1, 30, 1, 1, 0.7, 0.01, 0.86, 0, 0, 0, 0)",
            (day.date(),),
        )

    def day(self, verdict: str, *, of: datetime, psi: float = 0.5) -> None:
        """Insert the drift of Age on a day."""
        self.connection.execute(
            "insert into drift_daily values (%s, 1, 'Age', 9, 1, '{9}', 0, %s, 0, %s, 0, 0, 1)",
            (of.date(), psi, verdict),
        )


@pytest.fixture
def automation(platform: str, bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Automation]:
    """Version 1 is the champion, and there is a customers file. Nothing is due."""
    file = tmp_path / "customers.csv"
    file.write_text("a file of customers")
    monkeypatch.setenv("CHURN_RAW_CSV", str(file))
    settings.cache_clear()
    with psycopg.connect(platform, autocommit=True) as connection, dg.instance_for_test() as instance:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
        yield Automation(instance, connection, file)


def test_no_run_is_requested_if_nothing_is_due(automation: Automation) -> None:
    assert automation.tick(monitoring_sensor) == ([], "0 hours and 0 days are due, 0 outcomes are new.")


def test_hours_are_requested_as_windows_then_their_days(automation: Automation) -> None:
    for hours in (0, 2, 5):
        automation.predictions(HOUR - timedelta(hours=hours))

    [request], _ = automation.tick(monitoring_sensor)

    assert request.job_name == hourly_monitoring_job.name
    assert request.tags["dagster/asset_partition_range_start"] == hour_key(HOUR - timedelta(hours=5))
    assert request.tags["dagster/asset_partition_range_end"] == hour_key(HOUR)

    automation.connection.execute(
        "insert into drift_hourly select hour_timestamp, 1, 'Age', 1, 1, '{1}', 0, 0, 1, 'stable', 0, 0, 1 "
        "from dirty_hours"
    )
    [request], _ = automation.tick(monitoring_sensor)
    assert (request.job_name, request.partition_key) == ("daily_monitoring_job", day_key(HOUR))


def test_a_steady_flow_of_outcomes_does_not_starve_hours_and_days(automation: Automation) -> None:
    automation.predictions(HOUR)
    automation.drift(HOUR - timedelta(days=1))
    requested = []
    for _ in range(6):
        automation.outcomes(1)
        requested += automation.tick(monitoring_sensor)[0]
        automation.later(100)

    jobs = [str(request.job_name) for request in requested]
    assert sorted(jobs[:3]) == sorted(jobs[3:]) == ["daily_monitoring_job", "hourly_monitoring_job", "outcomes_job"]


def test_outcomes_that_arrive_one_by_one_are_ingested_together(automation: Automation) -> None:
    automation.outcomes(1)
    assert [request.job_name for request in automation.tick(monitoring_sensor)[0]] == ["outcomes_job"]
    automation.outcomes(1)

    assert automation.tick(monitoring_sensor)[0] == []
    automation.later(60)
    assert [request.job_name for request in automation.tick(monitoring_sensor)[0]] == ["outcomes_job"]


def test_a_window_that_stays_due_does_not_starve_later_windows(automation: Automation) -> None:
    for days in (20, 10, 0):
        automation.predictions(HOUR - timedelta(days=days))

    requested = []
    for _ in range(4):
        requested += [request.partition_key for request in automation.tick(monitoring_sensor)[0]]
        automation.later(100)

    first, second, third = (hour_key(HOUR - timedelta(days=days)) for days in (20, 10, 0))
    assert requested == [first, second, third, first]


def test_a_job_whose_runs_fail_is_retried_with_backoff_and_does_not_block_the_others(automation: Automation) -> None:
    automation.predictions(HOUR)
    automation.drift(HOUR - timedelta(days=1))
    automation.active("hourly_monitoring_job", dg.DagsterRunStatus.FAILURE)
    automation.active("hourly_monitoring_job", dg.DagsterRunStatus.FAILURE)

    requests, _ = automation.tick(monitoring_sensor)
    automation.connection.execute("delete from drift_hourly")
    nothing, reason = automation.tick(monitoring_sensor)

    assert [request.job_name for request in requests] == ["daily_monitoring_job"]
    assert nothing == []
    assert "the last runs of hourly_monitoring_job failed (2), the next attempt is in 1" in reason


def test_a_run_is_postponed_once_while_another_process_starts(automation: Automation) -> None:
    automation.predictions(HOUR)
    automation.active("prediction_stream_job", dg.DagsterRunStatus.STARTING)

    assert automation.tick(monitoring_sensor)[0] == []
    assert [request.job_name for request in automation.tick(monitoring_sensor)[0]] == ["hourly_monitoring_job"]
    assert automation.tick(monitoring_sensor)[0] == []


def test_a_truncated_outcomes_topic_starts_a_run_that_reports_it(automation: Automation) -> None:
    automation.outcomes(5)
    admin = admin_client(settings().kafka_client)
    positions = [(partition, 9) for partition in range(settings().topics.partitions)]
    topic_id = topics.describe(admin, settings().topics.outcomes).topic_id
    for partition, position in positions:  # a topic that ends before its positions: it was truncated
        automation.connection.execute(
            "insert into outcome_positions values (%s, %s, %s, %s)",
            (topic_id, partition, settings().topics.outcomes, position),
        )

    assert [request.job_name for request in automation.tick(monitoring_sensor)[0]] == ["outcomes_job"]


def test_new_outcomes_make_the_figures_of_today_due(automation: Automation) -> None:
    now = datetime.now(UTC)
    automation.connection.execute(
        "insert into live_performance (date, model_version, window_days, labelled, churned, brier, ece, mean_score, "
        "churn_rate, updated_at) values (%s, 1, 30, 1, 1, 0, 0, 0, 0, now())",
        (now.date(),),
    )
    assert automation.tick(monitoring_sensor)[0] == []
    automation.connection.execute(
        "insert into customer_outcomes values ('t', 0, 0, null, 1, 1, now(), now() + interval '1 second')"
    )

    [request], _ = automation.tick(monitoring_sensor)

    assert (request.job_name, request.partition_key) == ("daily_monitoring_job", day_key(now))


def test_outcomes_without_predictions_request_one_run(automation: Automation) -> None:
    automation.connection.execute("insert into customer_outcomes values ('t', 0, 0, null, 1, 1, now())")

    assert [request.job_name for request in automation.tick(monitoring_sensor)[0]] == ["daily_monitoring_job"]
    assert automation.tick(monitoring_sensor)[0] == []
    automation.connection.execute(
        "insert into customer_outcomes values ('t', 0, 1, null, 1, 1, now(), now() + interval '1 second')"
    )
    assert automation.tick(monitoring_sensor)[0] == []  # at most every MONITORING_SECONDS
    automation.later(settings().monitoring.refresh_seconds)
    assert [request.job_name for request in automation.tick(monitoring_sensor)[0]] == ["daily_monitoring_job"]


@pytest.mark.parametrize(
    ("job", "status", "reason"),
    [
        ("hourly_monitoring_job", dg.DagsterRunStatus.STARTED, "in progress"),
        ("prediction_stream_job", dg.DagsterRunStatus.STARTING, "Another run is starting"),
    ],
)
def test_monitoring_waits_for_its_own_run_and_for_a_starting_process(
    automation: Automation, job: str, status: dg.DagsterRunStatus, reason: str
) -> None:
    automation.predictions(HOUR)
    automation.active(job, status)

    requests, skip_reason = automation.tick(monitoring_sensor)

    assert requests == []
    assert reason in skip_reason


@pytest.mark.slow
def test_drift_is_evaluated_although_the_outcomes_topic_cannot_be_read(
    automation: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    automation.predictions(HOUR)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    settings.cache_clear()

    requests, _ = automation.tick(monitoring_sensor)
    automation.connection.execute("delete from dirty_hours")
    _, reason = automation.tick(monitoring_sensor)

    assert [request.job_name for request in requests] == [hourly_monitoring_job.name]
    assert f"the topic {settings().topics.outcomes} cannot be read" in reason


def test_a_scheduled_training_is_skipped_while_nothing_has_changed(automation: Automation) -> None:
    assert isinstance(automation.scheduled(), dg.RunRequest)  # no model was trained yet
    automation.trained()

    assert isinstance(automation.scheduled(), dg.SkipReason)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({FILE_HASH: "another"}, "the customers file"),
        ({REVISION: "another"}, "the code"),
        ({TRAINING_SETTINGS: "CALL_COST=7.0"}, "the settings"),
        ({SCHEMA: "of another schema"}, "the customer schema"),
    ],
)
def test_a_scheduled_training_runs_if_the_file_the_code_or_the_settings_have_changed(
    automation: Automation, changes: dict[str, str], what: str
) -> None:
    automation.trained(**changes)

    found = automation.scheduled()

    assert isinstance(found, dg.RunRequest)
    assert what in found.tags["churn/changed"]


def test_drift_requests_one_training_a_day_with_its_reason(automation: Automation) -> None:
    now = datetime.now(UTC)
    automation.day("far", of=now)
    automation.trained()
    automation.file.write_text("newer customers")

    [first], _ = automation.tick(retraining_sensor)
    cursor, automation.cursor = automation.cursor, None  # a tick without a cursor requests it again
    [second], _ = automation.tick(retraining_sensor)
    assert automation.cursor == cursor

    assert first.run_key == second.run_key == f"{now.date()} drift"  # the daemon launches a run key once
    assert first.tags[REASON_TAG] == f"drift of Age (PSI 0.50) on {now.date()}"
    assert "the customers file" in first.tags["churn/changed"]


def test_a_second_cause_requests_another_training_on_the_same_day(automation: Automation) -> None:
    now = datetime.now(UTC)
    automation.day("far", of=now)
    [first], _ = automation.tick(retraining_sensor)
    automation.too_low(now)

    [second], _ = automation.tick(retraining_sensor)
    requests, reason = automation.tick(retraining_sensor)

    assert (first.run_key, second.run_key) == (f"{now.date()} drift", f"{now.date()} performance")
    assert requests == []
    assert "already requested today" in reason


def test_a_low_live_performance_requests_a_training(automation: Automation) -> None:
    now = datetime.now(UTC)
    automation.too_low(now)

    [request], _ = automation.tick(retraining_sensor)

    assert request.run_key == f"{now.date()} performance"
    assert "live ROC AUC 0.700" in request.tags[REASON_TAG]


def test_no_training_is_requested_that_would_produce_the_same_model(automation: Automation) -> None:
    automation.day("far", of=datetime.now(UTC))
    automation.trained()

    requests, reason = automation.tick(retraining_sensor)

    assert requests == []
    assert "drift of Age" in reason
    assert "Put newer customers into" in reason


@pytest.mark.parametrize(
    ("verdict", "days_ago"),
    [("stable", 0), ("shifted", 0), ("too few", 0), ("far", 3)],
)
def test_a_small_or_old_drift_requests_no_training(automation: Automation, verdict: str, days_ago: int) -> None:
    automation.day(verdict, of=datetime.now(UTC) - timedelta(days=days_ago))

    assert automation.tick(retraining_sensor)[0] == []


def test_a_later_stable_day_ends_the_requests(automation: Automation) -> None:
    automation.day("far", of=datetime.now(UTC) - timedelta(days=1))
    automation.day("stable", of=datetime.now(UTC))

    assert automation.tick(retraining_sensor)[0] == []


def test_the_skip_reason_names_a_missing_file_and_a_training_in_progress(automation: Automation) -> None:
    automation.day("far", of=datetime.now(UTC))
    automation.active(retraining_job.name)
    assert "in progress" in automation.tick(retraining_sensor)[1]

    automation.file.unlink()
    assert "The customers file to train on does not exist" in automation.tick(retraining_sensor)[1]
