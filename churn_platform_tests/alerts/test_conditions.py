"""Operator conditions: found on real servers, told when they begin, last and end, each defined once."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from confluent_kafka import Producer

from churn_platform.alerts.conditions import CONDITIONS, Condition, Finding
from churn_platform.alerts.evidence import Bounds, Evidence, ProgressWatch, StreamWatch, free_shares
from churn_platform.alerts.operator_duty import OperatorConditions
from churn_platform.database import (
    alert_outbox,
    challengers,
    model_versions,
    operator_conditions,
    stream_batches,
    stream_pauses,
)
from churn_platform.database.alert_outbox import Status
from churn_platform.settings import Settings, descriptions
from churn_platform_tests.alerts.dagster_runs import (
    add_heartbeat,
    dagster_address,
    dagster_instance,
    fail,
    job,
    succeed,
)
from churn_platform_tests.stream.streams import Stream, event

START = datetime(2026, 11, 29, 12, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: datetime = START

    def pass_time(self, **duration: float) -> None:
        """Move it."""
        self.now += timedelta(**duration)

    def seconds(self) -> float:
        """Return it as a monotonic clock."""
        return (self.now - START).total_seconds()


@dataclass
class Switch:
    """A condition that is found while somebody says so."""

    subjects: dict[str, str] = field(default_factory=dict)

    @property
    def condition(self) -> Condition:
        """The condition."""
        return Condition(
            name="switch",
            meaning="It is on.",
            remedy="Turn it off.",
            every=0.0,
            find=lambda _: [Finding(subject, details) for subject, details in self.subjects.items()],
        )


def watch_of(client: dict[str, Any], topic: str, **more: Any) -> StreamWatch:
    return StreamWatch(client, topic, group="none", outcomes_topic="none", **more)


def evidence(client: dict[str, Any] | None = None, topic: str = "none", **bounds: Any) -> Evidence:
    defaults = vars(Bounds.from_settings(Settings()))
    return Evidence(
        Bounds(**{**defaults, **bounds}), watch_of(client or {"bootstrap.servers": "127.0.0.1:1"}, topic), {}
    )


def switch_duty(
    switch: Switch, clock: Clock, targets: Iterable[str] = ("pager",), *, condition: Condition | None = None
) -> OperatorConditions:
    return OperatorConditions(
        evidence(),
        list(targets),
        environment="here",
        keep_days=90,
        conditions=[condition or switch.condition],
        now=lambda: clock.now,
    )


def subjects(connection: psycopg.Connection) -> list[str]:
    """Return the subjects of the messages, the oldest first."""
    return [str(each.payload["subject"]) for each in alert_outbox.find(connection, statuses=list(Status))[::-1]]


def test_operators_are_told_when_a_condition_begins_and_ends(connection: psycopg.Connection) -> None:
    switch, clock = Switch(), Clock()
    duty = switch_duty(switch, clock)
    duty.run(connection)
    assert subjects(connection) == []

    switch.subjects = {"lamp": "40 W"}
    duty.run(connection)
    clock.pass_time(minutes=5)
    switch.subjects = {"lamp": "60 W"}
    duty.run(connection)
    switch.subjects = {}
    duty.run(connection)
    assert subjects(connection) == ["switch (lamp) began, on here"]
    clock.pass_time(seconds=61)
    duty.run(connection)

    ended, began = alert_outbox.find(connection, statuses=list(Status))
    assert subjects(connection) == ["switch (lamp) began, on here", "switch (lamp) ended, on here"]
    assert began.payload["text"] == "Since 2026-11-29 12:00:00 UTC: 40 W\nIt is on.\nTurn it off."
    assert ended.payload["text"] == (
        "From 2026-11-29 12:00:00 UTC to 2026-11-29 12:05:00 UTC. The latest measurement was: 60 W"
    )
    assert ended.payload["condition"] == {
        "name": "switch",
        "subject": "lamp",
        "state": "ended",
        "details": "60 W",
        "began": "2026-11-29T12:00:00+00:00",
        "ended": "2026-11-29T12:05:00+00:00",
        "environment": "here",
    }
    assert (began.kind, began.target, began.expires_at) == ("operator", "pager", None)
    (stored,) = operator_conditions.recent(connection, limit=9)
    assert stored.ended == START + timedelta(minutes=5)


def test_a_condition_neither_begins_nor_ends_before_its_first_evaluation(connection: psycopg.Connection) -> None:
    switch, clock = Switch({"lamp": "40 W"}), Clock()
    later = replace(switch.condition, after=3600.0)
    switch_duty(switch, clock, condition=later).run(connection)
    assert subjects(connection) == []

    switch_duty(switch, clock).run(connection)
    switch.subjects = {}
    restarted = switch_duty(switch, clock, condition=later)
    for _ in range(3):
        restarted.run(connection)
        clock.pass_time(seconds=61)

    assert subjects(connection) == ["switch (lamp) began, on here"]
    assert [each.subject for each in operator_conditions.open_conditions(connection)] == ["lamp"]


def test_a_value_around_its_bound_is_one_condition(connection: psycopg.Connection) -> None:
    switch, clock = Switch(), Clock()
    duty = switch_duty(switch, clock)
    for number in range(20):
        switch.subjects = {"": "on"} if number % 2 == 0 else {}
        duty.run(connection)
        clock.pass_time(seconds=30)

    assert subjects(connection) == ["switch began, on here"]


def test_reminders_come_at_growing_intervals(connection: psycopg.Connection) -> None:
    switch, clock = Switch({"": "on"}), Clock()
    duty = switch_duty(switch, clock)
    reminded = []
    for minute in range(0, 5 * 24 * 60, 10):
        before = len(subjects(connection))
        duty.run(connection)
        if len(subjects(connection)) > before and minute:
            reminded.append(minute / 60)
        clock.pass_time(minutes=10)

    assert reminded == [1, 3, 7, 15, 31, 55, 79, 103]
    assert subjects(connection)[1:] == ["switch lasts, on here"] * len(reminded)


def test_each_subject_is_a_condition_of_its_own_and_a_new_worker_continues(connection: psycopg.Connection) -> None:
    switch, clock = Switch({"a": "1", "b": "1"}), Clock()
    switch_duty(switch, clock).run(connection)
    del switch.subjects["a"]
    switch_duty(switch, clock).run(connection)
    clock.pass_time(minutes=2)
    switch_duty(switch, clock).run(connection)

    assert subjects(connection) == [
        "switch (a) began, on here",
        "switch (b) began, on here",
        "switch (a) ended, on here",
    ]
    assert [each.subject for each in operator_conditions.open_conditions(connection)] == ["b"]


def test_without_targets_conditions_are_recorded(connection: psycopg.Connection) -> None:
    switch_duty(Switch({"": "on"}), Clock(), targets=[]).run(connection)

    assert subjects(connection) == []
    assert [each.name for each in operator_conditions.open_conditions(connection)] == ["switch"]


def test_every_condition_is_explained_and_its_bound_is_a_setting() -> None:
    names = [each.name for each in CONDITIONS]
    variables = {each.variable for each in descriptions()}

    assert len(set(names)) == len(names)
    for each in CONDITIONS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", each.name)
        assert each.meaning.endswith(".")
        assert each.remedy.endswith((".", ","))
        assert each.setting in variables | {""}


# What is found


def found(name: str, of: Evidence, connection: psycopg.Connection) -> list[Finding]:
    """Evaluate one condition."""
    (condition,) = [each for each in CONDITIONS if each.name == name]
    of.begin_round(connection)
    return list(condition.find(of))


def test_progress_is_compared_with_the_reading_before() -> None:
    watch = ProgressWatch()

    def stalled(now: float, read: int, waiting: int, *, is_paused: bool = False) -> float:
        return watch.stalled_for(read=read, waiting=waiting, is_paused=is_paused, now=now)

    assert stalled(100, read=5, waiting=10) == 0
    assert stalled(110, read=5, waiting=20) == 10
    assert stalled(120, read=6, waiting=20) == 0
    assert stalled(140, read=6, waiting=20) == 20
    assert stalled(150, read=6, waiting=20, is_paused=True) == 0
    assert stalled(160, read=6, waiting=0) == 0
    assert stalled(170, read=6, waiting=1) == 10


@pytest.fixture
def clock() -> Clock:
    """A clock for the watch of the stream."""
    return Clock()


@pytest.fixture
def of_stream(stream: Stream, clock: Clock) -> Evidence:
    """What is looked at, for this stream."""
    watch = StreamWatch(
        stream.config.kafka.client,
        stream.config.events_topic,
        group=stream.config.kafka.group,
        outcomes_topic="none",
        clock=clock.seconds,
    )
    return Evidence(Bounds(**{**vars(Bounds.from_settings(Settings())), "max_lag": 5}), watch, {})


def test_a_stream_that_stands_still_while_events_wait_is_found(
    stream: Stream, of_stream: Evidence, clock: Clock
) -> None:
    topic = stream.config.events_topic
    stream.send([event(number) for number in range(10)])
    stream.stream()
    assert found("stream-stalled", of_stream, stream.connection) == []
    clock.pass_time(hours=1)
    assert found("stream-stalled", of_stream, stream.connection) == []

    stream.send([event(10), event(11)])
    assert found("stream-stalled", of_stream, stream.connection) == []
    clock.pass_time(seconds=29)
    assert found("stream-stalled", of_stream, stream.connection) == []
    clock.pass_time(seconds=1)
    assert found("stream-stalled", of_stream, stream.connection) == [
        Finding(topic, "2 events wait, and none was read for 30 s.")
    ]

    stream_pauses.pause(stream.connection, topic)
    assert found("stream-stalled", of_stream, stream.connection) == []
    stream_pauses.resume(stream.connection, topic)
    stream.stream()
    clock.pass_time(seconds=60)
    assert found("stream-stalled", of_stream, stream.connection) == []


def test_a_lane_that_stands_still_while_others_progress_is_found(
    stream: Stream, of_stream: Evidence, clock: Clock
) -> None:
    (first, second) = stream.want_lanes(2)
    stream.materialize(stream.plan(first))
    stream.send([event(number) for number in range(9)])
    assert found("stream-stalled", of_stream, stream.connection) == []
    stream.materialize(stream.plan(first))
    clock.pass_time(seconds=30)

    assert found("stream-stalled", of_stream, stream.connection) == [
        Finding(f"{stream.config.events_topic}, {second}", "3 events wait, and none was read for 30 s.")
    ]


def test_a_stream_that_was_never_started_stands_still(stream: Stream, of_stream: Evidence, clock: Clock) -> None:
    stream.send([event(1)])
    assert found("stream-stalled", of_stream, stream.connection) == []
    clock.pass_time(seconds=30)

    assert [each.details for each in found("stream-stalled", of_stream, stream.connection)] == [
        "1 events wait, and none was read for 30 s."
    ]


def test_a_transaction_marker_at_the_end_of_a_partition_does_not_wait(
    stream: Stream, of_stream: Evidence, clock: Clock
) -> None:
    producer = Producer({**stream.config.kafka.client, "transactional.id": f"{stream.config.events_topic} test"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(stream.config.events_topic, json.dumps(event(1)).encode(), partition=0)
    producer.commit_transaction(30)
    stream.stream()
    found("stream-stalled", of_stream, stream.connection)
    clock.pass_time(hours=1)

    assert found("stream-stalled", of_stream, stream.connection) == []
    lag = of_stream.stream.lag
    assert lag is not None
    assert lag.waiting == 0


def test_a_lag_above_its_bound_is_found(stream: Stream, of_stream: Evidence) -> None:
    stream.send([event(number) for number in range(5)])
    assert found("stream-lag", of_stream, stream.connection) == []
    stream.send([event(5)])

    assert found("stream-lag", of_stream, stream.connection) == [
        Finding(stream.config.events_topic, "6 events wait; the bound is 5.")
    ]


def test_a_kafka_that_does_not_answer_is_found(connection: psycopg.Connection, clock: Clock) -> None:
    client = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
    watch = watch_of(client, "events", request_seconds=0.5, clock=clock.seconds)
    watched = Evidence(Bounds.from_settings(Settings()), watch, {})
    assert found("kafka-unreachable", watched, connection) == []
    clock.pass_time(seconds=30)

    (finding,) = found("kafka-unreachable", watched, connection)
    assert finding.details.startswith("No answer for 30 s. Kafka at 127.0.0.1:1 does not answer")
    assert found("stream-stalled", watched, connection) == []


def test_many_dead_letters_are_found(stream: Stream) -> None:
    stream.send([event(number) for number in range(200)])
    stream.send([b"bad"] * 9)
    stream.stream()
    assert found("dead-letters", evidence(max_dead_letters=0.01), stream.connection) == []
    stream.send([b"bad"])
    stream.stream()

    assert found("dead-letters", evidence(max_dead_letters=0.05), stream.connection) == []
    assert found("dead-letters", evidence(max_dead_letters=0.04), stream.connection) == [
        Finding(
            "",
            "10 of 210 events in the batches of the last 15 minutes are dead letters, 4.8%; the bound is 4.0%.",
        )
    ]
    stream.connection.execute("update stream_batches set opened = opened - interval '1 hour'")
    assert found("dead-letters", evidence(max_dead_letters=0.04), stream.connection) == []
    assert stream_batches.latest_batch(stream.connection) is not None


def test_an_old_champion_is_found(stream: Stream, connection: psycopg.Connection) -> None:
    assert found("champion-old", evidence(), stream.connection) == []
    stream.connection.execute("update model_versions set registered_at = now() - interval '91 days'")

    assert found("champion-old", evidence(), stream.connection) == [
        Finding("", "Model version 1 was trained 91 days ago; the bound is 90 days.")
    ]
    assert found("champion-old", evidence(champion_max_days=92), connection) == []


def test_a_canary_that_was_rolled_back_is_found_until_another_one_is_started(stream: Stream, bundle_uri: str) -> None:
    connection = stream.connection
    for version in (2, 3):
        model_versions.register(connection, version=version, uri=bundle_uri, run_id=str(version), metrics={})
    canary = challengers.start(connection, "canary", model_version=2, share=0.1)
    assert found("canary-rolled-back", evidence(), connection) == []
    challengers.end(connection, canary, by="rollback", reason="The PSI of its scores is 0.4.")

    assert found("canary-rolled-back", evidence(), connection) == [
        Finding("version 2", "The PSI of its scores is 0.4.")
    ]

    other = challengers.start(connection, "canary", model_version=3, share=0.1)
    assert found("canary-rolled-back", evidence(), connection) == []
    challengers.end(connection, other, by="hand", reason="Enough.")
    assert found("canary-rolled-back", evidence(), connection) == []


def test_a_disk_that_fills_is_found(tmp_path: Path, connection: psycopg.Connection) -> None:
    shares = free_shares({"CHURN_LOCAL": tmp_path, "CHURN_ARTIFACTS": tmp_path, "OTHER": tmp_path / "missing"})
    assert list(shares) == ["CHURN_LOCAL"]
    assert 0 < shares["CHURN_LOCAL"] < 1

    bounds = Bounds(**{**vars(Bounds.from_settings(Settings())), "disk_min_free": 1.0})
    watched = Evidence(bounds, watch_of({}, "none"), {"CHURN_LOCAL": tmp_path})
    ((subject, details),) = [(each.subject, each.details) for each in found("disk-full", watched, connection)]
    assert subject == "disk of CHURN_LOCAL"
    assert details.endswith("the bound is 100.0%.")
    assert found("disk-full", evidence(), connection) == []


def test_messages_that_failed_or_are_in_doubt_are_found(connection: psycopg.Connection) -> None:
    for reference, target in (("1", "crm"), ("2", "crm"), ("3", "crm"), ("4", "mail")):
        alert_outbox.add(
            connection, kind="case", reference=reference, payload={"subject": "", "text": ""}, targets=[target]
        )
    assert found("messages-unsettled", evidence(), connection) == []
    connection.execute("update alert_outbox set status = 'failed' where reference in ('1', '2')")
    connection.execute("update alert_outbox set status = 'in_doubt' where reference = '3'")
    connection.execute("update alert_outbox set status = 'sending', claimed_at = now() where reference = '4'")
    assert found("messages-unsettled", evidence(), connection) == [Finding("target crm", "2 failed, 1 in doubt.")]
    alert_outbox.dismiss(connection, [1, 2, 3])
    connection.execute("update alert_outbox set claimed_at = now() - interval '11 minutes' where reference = '4'")

    assert found("messages-unsettled", evidence(), connection) == [Finding("target mail", "1 being sent for too long.")]


# In Dagster's own tables


@pytest.fixture
def instance(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in the database, as a stack has it."""
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_address(database))
    with dagster_instance(tmp_path) as instance:
        yield instance


def test_a_failed_run_is_found_until_the_job_works_again(
    instance: dg.DagsterInstance, connection: psycopg.Connection
) -> None:
    assert found("run-failed", evidence(), connection) == []
    failed = job("training_job", fail).execute_in_process(instance=instance, raise_on_error=False)
    job("other_job", succeed).execute_in_process(instance=instance)
    (finding,) = found("run-failed", evidence(), connection)
    assert finding.subject == "training_job"
    assert finding.details.startswith(f"Run {failed.run_id} failed. ")
    assert "Steps failed: ['training_job_op']" in finding.details  # Dagster's reason, without the error's own text
    assert "s3cret" not in finding.details

    job("training_job", succeed).execute_in_process(instance=instance)
    assert len(found("run-failed", evidence(), connection)) == 1  # for at least ten minutes
    connection.execute("update dagster.runs set end_time = end_time - 601")
    assert found("run-failed", evidence(), connection) == []


def test_a_failed_streaming_run_has_ended_once_another_one_streams(
    instance: dg.DagsterInstance, connection: psycopg.Connection
) -> None:
    streaming = job("prediction_stream_job", fail)
    streaming.execute_in_process(instance=instance, raise_on_error=False)
    connection.execute("update dagster.runs set end_time = end_time - 601")
    assert len(found("run-failed", evidence(), connection)) == 1

    instance.create_run_for_job(streaming, status=dg.DagsterRunStatus.STARTED)
    assert found("run-failed", evidence(), connection) == []


def test_a_failed_check_is_found_until_it_passes(instance: dg.DagsterInstance, connection: psycopg.Connection) -> None:
    passing = {"error": False, "warning": False}

    @dg.asset
    def customers() -> None:
        """Nothing."""

    @dg.asset_check(asset=customers, blocking=True)
    def error() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passing["error"], severity=dg.AssetCheckSeverity.ERROR)

    @dg.asset_check(asset=customers)
    def warning() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passing["warning"], severity=dg.AssetCheckSeverity.WARN)

    def materialize() -> str:
        return dg.materialize([customers, error, warning], instance=instance, raise_on_error=False).run_id

    watched = evidence()
    assert found("check-failed", watched, connection) == []
    run_id = materialize()
    expected = [Finding("error of customers", f"It failed in run {run_id}.")]
    assert found("check-failed", watched, connection) == expected
    assert found("check-failed", evidence(), connection) == expected

    passing["error"] = True
    materialize()
    assert found("check-failed", watched, connection) == []
    assert found("check-failed", evidence(), connection) == []


def test_a_silent_daemon_is_found(instance: dg.DagsterInstance, connection: psycopg.Connection) -> None:
    assert found("daemon-silent", evidence(), connection) == []
    add_heartbeat(instance, seconds_ago=60)
    assert found("daemon-silent", evidence(), connection) == []
    add_heartbeat(instance, seconds_ago=200)
    assert [each.details for each in found("daemon-silent", evidence(), connection)] == [
        "The latest heartbeat was 3 min ago."
    ]


@pytest.mark.parametrize("name", ["run-failed", "check-failed", "daemon-silent"])
def test_without_dagsters_tables_nothing_is_found(connection: psycopg.Connection, name: str) -> None:
    assert found(name, evidence(), connection) == []
