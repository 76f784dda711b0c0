"""Two environments on one Kafka: neither may publish where the other does, whether or not that one is running."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from churn_platform.database import advisory_locks, environments
from churn_platform.environments import created_topics
from churn_platform.environments.claims import Claims, Kind
from churn_platform.environments.environment_guard import EnvironmentGuard
from churn_platform.environments.exceptions import ClaimsError, EnvironmentConflictError
from churn_platform.environments.published_offsets import published_offsets
from churn_platform.kafka import topics
from churn_platform.kafka.reading import make_consumer
from churn_platform.local.stack import Stack
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.settings import Settings
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.stream.streams import Stream, event, register_champion, with_changes
from churn_platform_tests.waiting import wait_until


@pytest.fixture
def other(stream: Stream, stack: Stack, template_database: str, bundle_uri: str) -> Iterator[Stream]:
    """Another environment: its own database, and otherwise the settings of the first one."""
    dsn = copy_database(stack, template_database)
    register_champion(dsn, bundle_uri)
    with Stream(replace(stream.config, dsn=dsn, environment="the second checkout")) as other:
        yield other


def claim(stream: Stream, **changes: Any) -> str:
    """Claim what this environment writes to, and return its id."""
    with EnvironmentGuard(stream.connection, stream.admin, with_changes(stream.config, **changes)) as guard:
        return guard.claim()


def take_over(stream: Stream, *, silent_seconds: float = 0) -> None:
    """Take over once nothing was written for this long."""
    with EnvironmentGuard(stream.connection, stream.admin, stream.config) as guard:
        guard.take_over(silent_seconds=silent_seconds)


def holder(config: StreamConfig, stream: Stream) -> str:
    """Return the id of the environment that owns the predictions topic."""
    with Claims(stream.admin, config) as claims:
        claims.read()
        found = claims.holder(Kind.TOPIC, topics.describe(stream.admin, config.predictions_topic).topic_id)
        assert found is not None
        return found.environment


@pytest.mark.slow
def test_an_environment_may_use_its_own_topics(stream: Stream) -> None:
    first = claim(stream)

    stream.send([event(number) for number in range(9)])
    assert stream.stream().events == 9
    assert claim(stream) == first
    assert stream.published_ids() == stream.table_ids()


@pytest.mark.slow
def test_two_named_environments_on_one_kafka_never_meet(stack: Stack, template_database: str, bundle_uri: str) -> None:
    names = [f"{name}-{secrets.token_hex(3)}" for name in ("staging", "production")]
    with ExitStack() as both:
        streams = []
        for name in names:
            dsn = copy_database(stack, template_database)
            register_champion(dsn, bundle_uri)
            given = {**stack.environment, "CHURN_ENVIRONMENT": name, "DATABASE_URL": dsn}
            given.pop("DATABASE_RETENTION_URL")
            config = StreamConfig.from_settings(Settings.from_variables(given))
            streams.append(both.enter_context(Stream(config)))
            created_topics.create_missing(streams[-1].admin, config)
        for number, stream in enumerate(streams, start=1):
            stream.send([event(1_000 * number + count) for count in range(5 * number)])
        for stream in streams:
            stream.stream(idle_seconds=0.5)

        for number, stream in enumerate(streams, start=1):
            assert len(stream.table_ids()) == 5 * number
            assert stream.published_ids() == stream.table_ids()
            assert stream.config.kafka.group == f"{names[number - 1]}.churn-platform"


@pytest.mark.slow
def test_a_second_environment_on_the_same_topics_and_group_publishes_nothing(stream: Stream, other: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    published = stream.published_ids()

    with pytest.raises(EnvironmentConflictError) as refused:
        other.stream()

    said = str(refused.value)
    first = environments.identify(stream.connection)
    assert (
        f"The consumer group '{stream.config.kafka.group}', with its transactional id '{stream.config.kafka.group}-0'"
        in said
    )
    assert f"The predictions topic '{stream.config.predictions_topic}' (id " in said
    assert f"belongs to environment {first} ('{stream.config.environment}') since 20" in said
    assert "churn stream take-over" in said
    assert stream.published_ids() == published
    assert other.table_ids() == []
    assert other.value("select count(*) from stream_positions") == 0
    stream.send([event(number) for number in range(9)])
    assert stream.stream().events == 9


@pytest.mark.slow
@pytest.mark.parametrize("own", ["group", "predictions_topic"])
def test_a_shared_topic_or_group_alone_is_refused_before_anything_was_published(
    stream: Stream, other: Stream, own: str
) -> None:
    claim(stream)
    shared = {"group": other.config.kafka.group, "predictions_topic": other.config.predictions_topic}
    changes: dict[str, Any] = {own: f"{shared[own]}-of-the-second"}

    with pytest.raises(EnvironmentConflictError) as refused:
        other.stream(**changes)

    assert (stream.config.kafka.group in str(refused.value)) == (own == "predictions_topic")
    assert (stream.config.predictions_topic in str(refused.value)) == (own == "group")
    if own == "predictions_topic":
        assert changes[own] not in other.admin.list_topics(timeout=10).topics


@pytest.mark.slow
def test_verification_reports_what_another_environment_published_before_a_take_over(
    stream: Stream, other: Stream
) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    take_over(other)
    stream.send([event(number) for number in range(9, 12)])
    other.stream()  # events that both have read are published by both

    found = {invariant.name: invariant for invariant in check_invariants(other.config)}

    assert [invariant.violations for invariant in found.values() if not invariant.holds] == []
    assert found["published"].figures["by_another_environment"] == 9
    assert found["published"].figures["published"] == 12
    assert "9 published by another environment" in found["published"].summary
    other.connection.execute("delete from churn_predictions where kafka_offset = 0")
    assert "published" in [invariant.name for invariant in check_invariants(other.config) if not invariant.holds]


@pytest.mark.slow
def test_two_environments_may_read_one_events_topic(stream: Stream, other: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    own: dict[str, Any] = {
        "predictions_topic": f"{stream.config.predictions_topic}-staging",
        "group": f"{stream.config.kafka.group}-staging",
    }

    assert other.stream(**own).events == 9

    staging = Stream(with_changes(other.config, **own))
    assert staging.published_ids() == other.table_ids()
    assert len(stream.published_ids()) == 9


@pytest.mark.slow
def test_a_topic_that_was_deleted_and_recreated_has_no_owner(stream: Stream, other: Stream) -> None:
    claim(stream)
    name = stream.config.predictions_topic
    stream.admin.delete_topics([name])[name].result()
    wait_until(lambda: name not in stream.admin.list_topics(timeout=10).topics)
    stream.admin.create_topics([NewTopic(name, 3)])[name].result()
    wait_until(lambda: name in stream.admin.list_topics(timeout=10).topics)

    second = claim(other, group=f"{other.config.kafka.group}-of-the-second")

    assert holder(other.config, other) == second
    with pytest.raises(EnvironmentConflictError, match="predictions topic"):
        stream.stream()


def test_only_one_of_several_environments_that_start_at_the_same_time_is_accepted(
    stream: Stream, stack: Stack, template_database: str
) -> None:
    with ExitStack() as opened:
        streams = [
            opened.enter_context(Stream(replace(stream.config, dsn=copy_database(stack, template_database))))
            for _ in range(4)
        ]

        def attempt(each: Stream) -> str | None:
            try:
                return claim(each)
            except EnvironmentConflictError:
                return None

        with ThreadPoolExecutor(len(streams)) as pool:
            outcomes = list(pool.map(attempt, streams))

        won = [outcome for outcome in outcomes if outcome is not None]
        assert len(won) == 1
        assert holder(stream.config, stream) == won[0]
        with Claims(stream.admin, stream.config) as claims:
            claims.read()
            topic_id = topics.describe(stream.admin, stream.config.predictions_topic).topic_id
            assert [each.environment for each in claims.all_of(Kind.TOPIC, topic_id)] == won
        refused = streams[outcomes.index(None)]
        # A refused environment is not bound to what it could not claim.
        assert environments.find_binding(refused.connection) is None


def test_two_processes_of_one_environment_claim_once(stream: Stream) -> None:
    with psycopg.connect(stream.config.dsn, autocommit=True) as second:
        guards = [EnvironmentGuard(each, stream.admin, stream.config) for each in (stream.connection, second)]
        with ThreadPoolExecutor(2) as pool:
            ids = list(pool.map(EnvironmentGuard.claim, guards))
        for guard in guards:
            guard.close()

    assert ids[0] == ids[1]


@pytest.mark.slow
def test_a_database_cannot_be_used_with_another_kafka_topic_or_group(stream: Stream) -> None:
    claim(stream)

    for changes, problem in (
        ({"predictions_topic": "another"}, "to the topic 'predictions-.*, not 'another'"),
        ({"group": "another"}, "as the consumer group 'group-.*, not 'another'"),
        (
            {"claims_topic": "claims-of-another-kafka"},
            "to another Kafka than the one that KAFKA_BOOTSTRAP_",
        ),
    ):
        with pytest.raises(EnvironmentConflictError, match=f"The database 'test_.*' publishes {problem}"):
            stream.stream(**changes)

    assert stream.stream().events == 0


def test_a_restored_database_keeps_its_claims_and_one_from_a_template_is_a_new_environment(
    stream: Stream, stack: Stack, template_database: str
) -> None:
    first = claim(stream)
    stream.connection.close()
    name = psycopg.conninfo.conninfo_to_dict(stream.config.dsn)["dbname"]
    restored = copy_database(stack, str(name))
    created = copy_database(stack, template_database)

    with psycopg.connect(restored, autocommit=True) as connection:
        assert environments.identify(connection) == first
        with EnvironmentGuard(connection, stream.admin, replace(stream.config, dsn=restored)) as guard:
            assert guard.claim() == first
    with psycopg.connect(created, autocommit=True) as connection:
        assert environments.identify(connection) != first


@pytest.mark.slow
def test_a_take_over_moves_the_claims_and_the_former_owner_is_refused(stream: Stream, other: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    with pytest.raises(EnvironmentConflictError, match=r"Predictions were written to .* s ago"):
        take_over(other, silent_seconds=environments.SILENT_SECONDS)

    take_over(other)

    with pytest.raises(EnvironmentConflictError, match="the second checkout"):
        stream.stream()
    assert other.stream().events == 9
    # What the former owner has published does not count for the new one: each publishes what is in its own table.
    assert set(other.table_ids()) <= set(stream.published_ids())
    assert len(other.published()) == 18
    events = topics.describe(other.admin, other.config.events_topic)
    consumer = make_consumer(other.config.kafka)
    try:
        assert sum(published_offsets(consumer, events, seconds=10).values()) >= 9
    finally:
        consumer.close()


@pytest.mark.slow
def test_a_standby_that_waited_while_another_took_over_publishes_nothing(stream: Stream, other: Stream) -> None:
    stream.stream()
    stream.send([event(number) for number in range(9)])
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(stream.config.dsn, autocommit=True) as live:
            advisory_locks.lock_stream(live, stream.config.events_topic)
            standby = pool.submit(stream.stream)
            wait_until(lambda: advisory_locks.lock_sessions(stream.connection, stream.config.events_topic)[1])
            take_over(other)

        assert isinstance(standby.exception(60), EnvironmentConflictError)
    assert stream.published_ids() == []


@pytest.mark.slow
def test_a_live_run_ends_when_another_environment_takes_over(stream: Stream, other: Stream) -> None:
    stream.send([event(number) for number in range(3)])
    with ThreadPoolExecutor(1) as pool:
        live = pool.submit(stream.stream, idle_seconds=120.0, batch_seconds=120.0)
        wait_until(lambda: len(stream.published_ids()) == 3)
        take_over(other)

        assert isinstance(live.exception(60), EnvironmentConflictError)
    stream.send([event(number) for number in range(3, 9)])
    assert len(stream.published_ids()) == 3


@pytest.mark.slow
def test_published_offsets_of_another_environment_are_refused_where_the_claims_topic_was_deleted(
    stream: Stream, other: Stream
) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()

    with pytest.raises(EnvironmentConflictError, match=environments.identify(stream.connection)):
        claim(other, claims_topic="claims-that-were-deleted", predictions_topic="another-topic")


def test_a_claims_topic_that_deletes_records_is_refused(stream: Stream) -> None:
    name = f"deleting-{stream.config.kafka.group}"
    stream.admin.create_topics([NewTopic(name, 1)])[name].result()
    wait_until(lambda: name in stream.admin.list_topics(timeout=10).topics)

    with pytest.raises(ClaimsError, match=r"has cleanup\.policy=delete, expected compact"):
        claim(stream, claims_topic=name)


def test_records_that_are_not_claims_are_ignored(stream: Stream) -> None:
    claim(stream)
    producer = Producer(stream.config.kafka.client)
    for key, value in ((b"theirs", b"not JSON"), (None, b"{}"), (b"theirs", b"{}")):
        producer.produce(stream.config.claims_topic, value, key)
    assert producer.flush(10) == 0

    assert claim(stream) == holder(stream.config, stream)


# Processes with another environment name on the same database.


def test_another_environment_on_the_same_database_is_named_until_it_has_been_silent(stream: Stream) -> None:
    with EnvironmentGuard(stream.connection, stream.admin, stream.config) as guard:
        environments.record_running(stream.connection, stream.config.environment)
        guard.require_exclusive_use()
        environments.record_running(stream.connection, "another machine:/srv/churn")
        with pytest.raises(EnvironmentConflictError, match="'another machine:/srv/churn' uses the database 'test_"):
            guard.require_exclusive_use()
        stream.connection.execute("update environments set seen = now() - interval '2 minutes'")
        guard.require_exclusive_use()


def test_a_live_run_without_a_sensor_is_named_by_its_session(stream: Stream) -> None:
    with (
        psycopg.connect(stream.config.dsn, application_name=advisory_locks.session_name("run-1")) as live,
        EnvironmentGuard(stream.connection, stream.admin, stream.config) as guard,
    ):
        advisory_locks.lock_stream(live, stream.config.events_topic)

        with pytest.raises(EnvironmentConflictError, match="the session 'churn stream run-1' streams 'events-"):
            guard.require_exclusive_use()
