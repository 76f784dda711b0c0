"""The sensors of monitoring and the training schedule: what they ask for, and why they do not."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from churn_platform.database import model_versions
from churn_platform.definitions import defs
from churn_platform.environments import created_topics
from churn_platform.kafka import topics
from churn_platform.orchestration.assets.training_inputs import (
    FILE_HASH,
    REVISION,
    TRAINING_SETTINGS,
    training_settings,
)
from churn_platform.orchestration.jobs import hourly_monitoring_job, retraining_job
from churn_platform.orchestration.monitoring_sensors import WHY_TAG, monitoring_sensor, retraining_sensor
from churn_platform.orchestration.partitions import day_key, hour_key
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.mlflow import code_version
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.schedules import request_training
from churn_platform.schema.reader import fingerprint
from churn_platform.settings import settings

HOUR = datetime(2026, 11, 26, 9, tzinfo=UTC)


@dataclass
class Automation:
    """An instance, a database and a customers file."""

    instance: dg.DagsterInstance
    connection: psycopg.Connection
    file: Path
    cursor: str | None = None

    def tick(self, sensor: dg.SensorDefinition) -> tuple[list[dg.RunRequest], str]:
        """What a sensor asks for, or why it does not."""
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
        """As if so much time had passed since the ticks before."""
        state = json.loads(self.cursor or "{}")
        state["asked"] = {key: at - seconds for key, at in state["asked"].items()}
        self.cursor = json.dumps(state)

    def outcomes(self, count: int) -> None:
        """Messages in the outcomes topic, which is created."""
        created_topics.create_missing(
            AdminClient(settings().kafka_client), KafkaResource().stream(), settings().topics.outcomes
        )
        producer = Producer(settings().kafka_client)
        for _ in range(count):
            producer.produce(settings().topics.outcomes, b"{}")
        assert producer.flush(30) == 0

    def scheduled(self) -> dg.RunRequest | dg.SkipReason:
        """What the training schedule asks for."""
        found = request_training(dg.build_schedule_context(instance=self.instance))
        assert isinstance(found, dg.RunRequest | dg.SkipReason)
        return found

    def trained(self, **changes: str) -> None:
        """As if a model had just been trained on the file as it is."""
        file = fingerprint(self.file)
        self.report("train_test_split", **{FILE_HASH: file})
        inputs = {FILE_HASH: file, TRAINING_SETTINGS: training_settings(), REVISION: code_version()}
        self.report("churn_model", **{**inputs, **changes})

    def report(self, asset: str, **metadata: str) -> None:
        """A materialization of an asset."""
        self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=metadata))

    def active(self, job: str, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> None:
        """A run of this job."""
        self.instance.create_run_for_job(defs.resolve_job_def(job), status=status)

    def predictions(self, hour: datetime) -> None:
        """As if an hour had some, by a batch that was opened long ago."""
        self.connection.execute(
            "insert into stream_batches (batch, opened) values ('a', %s) on conflict do nothing", (HOUR,)
        )
        self.connection.execute("insert into churn_batch_hours values ('a', %s, 5, 1, 1, 0, 5, 5, 5, 5)", (hour,))
        self.connection.execute("insert into dirty_hours values (%s, 1)", (hour,))

    def drift(self, hour: datetime) -> None:
        """As if the drift of an hour were known."""
        self.connection.execute(
            "insert into drift_hourly values (%s, 1, 'Age', 1, 1, '{1}', 0, 0, 1, 'stable', 0, 0, 1)", (hour,)
        )

    def too_low(self, day: datetime) -> None:
        """A live performance that is too low."""
        self.connection.execute(
            "insert into live_performance (date, model_version, window_days, labelled, churned, roc_auc, "
            "roc_auc_error, expected_roc_auc, brier, ece, mean_score, churn_rate) "
            "values (%s, 1, 30, 1, 1, 0.7, 0.01, 0.86, 0, 0, 0, 0)",
            (day.date(),),
        )

    def day(self, verdict: str, *, of: datetime, psi: float = 0.5) -> None:
        """Drift of Age on a day."""
        self.connection.execute(
            "insert into drift_daily values (%s, 1, 'Age', 9, 1, '{9}', 0, %s, 0, %s, 0, 0, 1)",
            (of.date(), psi, verdict),
        )


@pytest.fixture
def automation(platform: str, bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Automation]:
    """A champion, version 1, and a customers file; nothing is due."""
    file = tmp_path / "customers.csv"
    file.write_text("a file of customers")
    monkeypatch.setenv("CHURN_RAW_CSV", str(file))
    settings.cache_clear()
    with psycopg.connect(platform, autocommit=True) as connection, dg.instance_for_test() as instance:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
        yield Automation(instance, connection, file)


def test_when_nothing_is_due_nothing_is_asked_for(automation: Automation) -> None:
    assert automation.tick(monitoring_sensor) == ([], "0 hours and 0 days are due, 0 outcomes wait.")


def test_hours_are_asked_for_as_windows_then_their_days(automation: Automation) -> None:
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


def test_outcomes_that_never_cease_leave_hours_and_days_their_turns(automation: Automation) -> None:
    automation.predictions(HOUR)
    automation.drift(HOUR - timedelta(days=1))
    asked = []
    for _ in range(6):
        automation.outcomes(1)
        asked += automation.tick(monitoring_sensor)[0]
        automation.later(100)

    jobs = [str(request.job_name) for request in asked]
    assert sorted(jobs[:3]) == sorted(jobs[3:]) == ["daily_monitoring_job", "hourly_monitoring_job", "outcomes_job"]


def test_outcomes_that_come_one_by_one_are_read_together(automation: Automation) -> None:
    automation.outcomes(1)
    assert [request.job_name for request in automation.tick(monitoring_sensor)[0]] == ["outcomes_job"]
    automation.outcomes(1)

    assert automation.tick(monitoring_sensor)[0] == []
    automation.later(60)
    assert [request.job_name for request in automation.tick(monitoring_sensor)[0]] == ["outcomes_job"]


def test_a_window_that_stays_due_leaves_later_windows_their_turn(automation: Automation) -> None:
    for days in (20, 10, 0):
        automation.predictions(HOUR - timedelta(days=days))

    asked = []
    for _ in range(4):
        asked += [request.partition_key for request in automation.tick(monitoring_sensor)[0]]
        automation.later(100)

    first, second, third = (hour_key(HOUR - timedelta(days=days)) for days in (20, 10, 0))
    assert asked == [first, second, third, first]


def test_a_kind_whose_runs_fail_waits_longer_each_time_and_the_others_go_on(automation: Automation) -> None:
    automation.predictions(HOUR)
    automation.drift(HOUR - timedelta(days=1))
    automation.active("hourly_monitoring_job", dg.DagsterRunStatus.FAILURE)
    automation.active("hourly_monitoring_job", dg.DagsterRunStatus.FAILURE)

    requests, _ = automation.tick(monitoring_sensor)
    automation.connection.execute("delete from drift_hourly")
    nothing, said = automation.tick(monitoring_sensor)

    assert [request.job_name for request in requests] == ["daily_monitoring_job"]
    assert nothing == []
    assert "the last runs of hourly_monitoring_job failed (2), the next try comes in 1" in said


def test_another_process_that_starts_is_waited_for_once(automation: Automation) -> None:
    automation.predictions(HOUR)
    automation.active("prediction_stream_job", dg.DagsterRunStatus.STARTING)

    assert automation.tick(monitoring_sensor)[0] == []
    assert [request.job_name for request in automation.tick(monitoring_sensor)[0]] == ["hourly_monitoring_job"]
    assert automation.tick(monitoring_sensor)[0] == []


def test_outcomes_that_are_lost_are_left_to_a_run_that_reports_them(automation: Automation) -> None:
    automation.outcomes(5)
    admin = AdminClient(settings().kafka_client)
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


def test_outcomes_of_nobody_who_was_predicted_are_looked_at_once(automation: Automation) -> None:
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
def test_monitoring_waits_for_its_own_run_and_for_a_process_that_starts(
    automation: Automation, job: str, status: dg.DagsterRunStatus, reason: str
) -> None:
    automation.predictions(HOUR)
    automation.active(job, status)

    requests, said = automation.tick(monitoring_sensor)

    assert requests == []
    assert reason in said


def test_drift_is_judged_though_the_outcomes_topic_cannot_be_read(
    automation: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    automation.predictions(HOUR)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    settings.cache_clear()

    requests, _ = automation.tick(monitoring_sensor)
    automation.connection.execute("delete from dirty_hours")
    _, said = automation.tick(monitoring_sensor)

    assert [request.job_name for request in requests] == [hourly_monitoring_job.name]
    assert f"the topic {settings().topics.outcomes} cannot be read" in said


def test_a_scheduled_training_is_skipped_while_nothing_has_changed(automation: Automation) -> None:
    assert isinstance(automation.scheduled(), dg.RunRequest)  # nothing was ever trained
    automation.trained()

    assert isinstance(automation.scheduled(), dg.SkipReason)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({FILE_HASH: "another"}, "the customers file"),
        ({REVISION: "another"}, "the code"),
        ({TRAINING_SETTINGS: "CALL_COST=7.0"}, "the settings"),
    ],
)
def test_a_training_takes_place_when_file_code_or_settings_have_changed(
    automation: Automation, changes: dict[str, str], what: str
) -> None:
    automation.trained(**changes)

    found = automation.scheduled()

    assert isinstance(found, dg.RunRequest)
    assert what in found.tags["churn/changed"]


def test_drift_asks_for_a_new_model_once_a_day_and_says_why(automation: Automation) -> None:
    now = datetime.now(UTC)
    automation.day("far", of=now)
    automation.trained()
    automation.file.write_text("newer customers")

    [first], _ = automation.tick(retraining_sensor)
    cursor, automation.cursor = automation.cursor, None  # a tick whose cursor was lost asks again
    [second], _ = automation.tick(retraining_sensor)
    assert automation.cursor == cursor

    assert first.run_key == second.run_key == f"{now.date()} drift"  # the daemon launches a key once
    assert first.tags[WHY_TAG] == f"drift of Age (PSI 0.50) on {now.date()}"
    assert "the customers file" in first.tags["churn/changed"]


def test_a_second_cause_asks_for_a_model_though_the_first_has_asked_today(automation: Automation) -> None:
    now = datetime.now(UTC)
    automation.day("far", of=now)
    [first], _ = automation.tick(retraining_sensor)
    automation.too_low(now)

    [second], _ = automation.tick(retraining_sensor)
    requests, said = automation.tick(retraining_sensor)

    assert (first.run_key, second.run_key) == (f"{now.date()} drift", f"{now.date()} performance")
    assert requests == []
    assert "already requested today" in said


def test_a_live_performance_that_is_too_low_asks_for_one_too(automation: Automation) -> None:
    now = datetime.now(UTC)
    automation.too_low(now)

    [request], _ = automation.tick(retraining_sensor)

    assert request.run_key == f"{now.date()} performance"
    assert "live ROC AUC 0.700" in request.tags[WHY_TAG]


def test_no_model_is_asked_for_that_would_be_the_same_again(automation: Automation) -> None:
    automation.day("far", of=datetime.now(UTC))
    automation.trained()

    requests, said = automation.tick(retraining_sensor)

    assert requests == []
    assert "drift of Age" in said
    assert "Put newer customers into" in said


@pytest.mark.parametrize(
    ("verdict", "days_ago"),
    [("stable", 0), ("shifted", 0), ("too few", 0), ("far", 3)],
)
def test_less_than_far_off_or_long_ago_asks_for_nothing(automation: Automation, verdict: str, days_ago: int) -> None:
    automation.day(verdict, of=datetime.now(UTC) - timedelta(days=days_ago))

    assert automation.tick(retraining_sensor)[0] == []


def test_a_day_that_is_well_again_ends_the_asking(automation: Automation) -> None:
    automation.day("far", of=datetime.now(UTC) - timedelta(days=1))
    automation.day("stable", of=datetime.now(UTC))

    assert automation.tick(retraining_sensor)[0] == []


def test_a_missing_file_and_a_training_under_way_are_said(automation: Automation) -> None:
    automation.day("far", of=datetime.now(UTC))
    automation.active(retraining_job.name)
    assert "in progress" in automation.tick(retraining_sensor)[1]

    automation.file.unlink()
    assert "There is no customers file" in automation.tick(retraining_sensor)[1]
