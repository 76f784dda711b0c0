"""A database that was restored to an earlier state is reconciled with Kafka: nothing is lost or published twice."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from churn_platform.database import alert_outbox, model_versions, recovered_predictions
from churn_platform.environments.exceptions import LedgerBehindError
from churn_platform.kafka import topics
from churn_platform.kafka.topics import EARLIEST, LATEST
from churn_platform.local.stack import Stack
from churn_platform.model_store import save_bundle
from churn_platform.operations import status
from churn_platform.operations.recovery.recover import Recovery, recover
from churn_platform.operations.verification.verify import check_invariants
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.operations.recovery.restoring import copy_of, database_of, restored
from churn_platform_tests.scoring.bundles import FEW_TREES, small_bundle
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until


def run(stream: Stream) -> Recovery:
    """Recover the stream."""
    return recover(stream.config, lambda _step, _count: None)


def violations(stream: Stream) -> list[str]:
    """Return the violations of all invariants of the stream."""
    return [each for invariant in check_invariants(stream.config) for each in invariant.violations]


def twice(ids: Sequence[str]) -> list[str]:
    """Return the ids that occur more than once."""
    return [each for each, count in Counter(ids).items() if count > 1]


def delete_records(stream: Stream, topic: str) -> None:
    """Delete all records that a topic has now, as its retention does."""
    described = topics.describe(stream.admin, topic)
    ends = topics.list_offsets(stream.admin, described, LATEST)
    for future in stream.admin.delete_records(
        [TopicPartition(topic, partition, end) for partition, end in ends.items()]
    ).values():
        future.result()
    wait_until(lambda: topics.list_offsets(stream.admin, described, EARLIEST) == ends)


@pytest.mark.slow
def test_lost_events_are_scored_again_and_published_once(stack: Stack, stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    backup = copy_of(stack, stream)
    stream.send([event(number) for number in range(9, 30)])
    stream.stream()
    published = stream.published_ids()

    with restored(stream, backup) as again:
        with pytest.raises(LedgerBehindError, match="churn recover"):
            again.stream()
        found = run(again)

        assert (found.reconciled.lost, found.comparison.scored) == (21, 0)
        assert sorted(found.reconciled.published) == [0, 1, 2]
        assert violations(again) == []
        assert not status.collect_status(again.config).problems
        again.send([event(number) for number in range(30, 36)])
        assert again.stream().events == 27
        assert again.table_ids() == again.published_ids()
        assert len(again.published_ids()) == len(published) + 6
        assert violations(again) == []
        assert run(again).comparison.scored == 21
        assert run(again).comparison.other_score == 0


@pytest.mark.slow
def test_a_backup_that_is_restored_twice_is_refused_each_time(stack: Stack, stream: Stream) -> None:
    stream.send([event(number) for number in range(6)])
    stream.stream()
    backup = copy_of(stack, stream)
    second = copy_database(stack, database_of(backup))
    stream.send([event(number) for number in range(6, 15)])
    stream.stream()

    with restored(stream, backup) as first:
        assert run(first).reconciled.lost == 9
        first.stream(batch_events=1)  # some of the lost events only
    with restored(stream, second) as again:
        with pytest.raises(LedgerBehindError, match="churn recover"):
            again.stream()
        assert run(again).reconciled.lost == 9
        again.stream()
        assert again.table_ids() == again.published_ids() == stream.table_ids()
        assert violations(again) == []


@pytest.mark.slow
def test_a_recovery_that_died_before_it_reached_kafka_is_repeated(stack: Stack, stream: Stream) -> None:
    stream.send([event(number) for number in range(6)], partition=0)
    stream.stream()
    backup = copy_of(stack, stream)
    stream.send([event(number) for number in range(6, 9)], partition=0)
    stream.stream()

    with restored(stream, backup) as again:
        topic = topics.describe(again.admin, again.config.events_topic)
        with again.connection.transaction():
            recovered_predictions.record(again.connection, topic_id=topic.topic_id, positions={0: 6}, published={0: 9})
        with pytest.raises(LedgerBehindError, match="churn recover"):
            again.stream()
        assert run(again).reconciled.lost == 3
        again.stream()
        assert again.table_ids() == again.published_ids()


@pytest.mark.slow
def test_only_what_is_not_in_the_topic_yet_is_published(stack: Stack, stream: Stream) -> None:
    later = (datetime.now(UTC) + timedelta(minutes=7)).isoformat()
    stream.send([event(number) for number in range(3)])
    stream.stream()
    backup = copy_of(stack, stream)
    early = event(3, event_timestamp=later)
    stream.send([event(4), event(5), early, b"bad"])
    assert stream.stream(batch_seconds=1).dead_letters == 2
    published = stream.published_ids()

    with restored(stream, backup) as again:
        assert run(again).reconciled.lost == 2
        # This batch accepts the event that was too early for the lost one. Its run dies before it publishes it.
        key = again.plan()
        again.commit_and_die(key, [event(6)])
        again.stream(batch_seconds=600)
        assert {*published, str(early["event_id"])} <= set(again.published_ids())
        assert twice(again.published_ids()) == []
        assert again.table_ids() == again.published_ids()
        assert violations(again) == []


@pytest.mark.slow
def test_an_event_that_is_a_dead_letter_now_keeps_its_published_prediction(stack: Stack, stream: Stream) -> None:
    later = (datetime.now(UTC) + timedelta(minutes=7)).isoformat()
    stream.send([event(number) for number in range(3)])
    stream.stream()
    backup = copy_of(stack, stream)
    stream.send([event(3, event_timestamp=later), event(4)])
    assert stream.stream(batch_seconds=600).predictions == 2

    with restored(stream, backup) as again:
        run(again)
        assert again.stream(batch_seconds=1).dead_letters == 1
        comparison = run(again).comparison
        assert (comparison.recovered, comparison.scored) == (2, 1)
        assert violations(again) == []


@pytest.mark.slow
def test_scores_that_differ_from_the_published_ones_are_counted(
    stack: Stack, stream: Stream, local_folder: Path
) -> None:
    stream.send([event(number) for number in range(3)])
    stream.stream()
    backup = copy_of(stack, stream)
    stream.send([event(number) for number in range(3, 30)])
    stream.stream()
    other = str(local_folder / "another-bundle")
    save_bundle(small_bundle(replace(FEW_TREES, trees=12)), other)

    with restored(stream, backup) as again:
        run(again)
        model_versions.register(again.connection, version=2, uri=other, run_id="another", metrics={})
        model_versions.promote(again.connection, 2)
        again.stream()
        comparison = run(again).comparison
        assert (comparison.recovered, comparison.scored, comparison.other_version) == (27, 27, 27)
        assert 0 < comparison.other_score <= 27
        assert comparison.largest_difference
        assert violations(again) == []


@pytest.mark.slow
def test_predictions_that_kafka_has_lost_are_published_again(stream: Stream) -> None:
    stream.send([event(number) for number in range(12)])
    stream.stream()
    for future in stream.admin.delete_topics([stream.config.predictions_topic]).values():
        future.result()
    wait_until(lambda: stream.config.predictions_topic not in stream.admin.list_topics(timeout=10).topics)

    assert run(stream).reconciled.missing == 12
    assert stream.published_ids() == stream.table_ids()
    assert violations(stream) == []
    assert run(stream).reconciled.missing == 0


@pytest.mark.slow
def test_predictions_that_retention_has_deleted_are_not_published_again(stream: Stream) -> None:
    stream.send([event(number) for number in range(12)])
    stream.stream()
    delete_records(stream, stream.config.predictions_topic)
    stream.send([event(number) for number in range(12, 15)])
    stream.stream()

    assert run(stream).reconciled.missing == 0
    assert violations(stream) == []


def compact(stream: Stream) -> None:
    """Make the predictions topic one that Kafka compacts as soon as it can."""
    config = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.001",
        "segment.ms": "100",
        "min.compaction.lag.ms": "0",
        "max.compaction.lag.ms": "100",
    }
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ResourceType.TOPIC, stream.config.predictions_topic, incremental_configs=entries)
    for future in stream.admin.incremental_alter_configs([resource]).values():
        future.result()


def last_of_customer(stream: Stream) -> dict[object, object]:
    """Return the last published event of each customer."""
    return {each["customer_id"]: each["event_id"] for each in stream.published()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_predictions_that_compaction_has_removed_are_not_published_again(stream: Stream) -> None:
    compact(stream)
    stream.send([event(number) for number in range(9)])
    stream.stream()
    removed = set(stream.published_ids())

    def is_compacted() -> bool:
        stream.send([event(number) for number in range(9)])
        stream.stream()
        return removed.isdisjoint(stream.published_ids())

    wait_until(is_compacted, timeout=120, what="compaction to remove the first prediction of each customer")
    last = last_of_customer(stream)

    assert violations(stream) == []
    assert run(stream).reconciled.missing == 0
    assert last_of_customer(stream) == last


@pytest.mark.slow
def test_what_a_compacted_topic_has_lost_is_published_for_customers_without_a_later_message(stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    for future in stream.admin.delete_topics([stream.config.predictions_topic]).values():
        future.result()
    wait_until(lambda: stream.config.predictions_topic not in stream.admin.list_topics(timeout=10).topics)
    topics.create_missing(stream.admin, stream.config.kafka, [stream.config.predictions_topic])
    wait_until(lambda: stream.config.predictions_topic in stream.admin.list_topics(timeout=10).topics)
    compact(stream)
    stream.send([event(number) for number in range(3)])
    stream.stream()
    last = last_of_customer(stream)
    assert len(last) == 3

    assert len(violations(stream)) == 6 - 1  # an invariant gives at most five examples
    assert run(stream).reconciled.missing == 6
    assert violations(stream) == []
    assert last_of_customer(stream).items() >= last.items()
    assert len(last_of_customer(stream)) == 9


@pytest.mark.slow
def test_what_was_published_is_found_without_published_offsets(stack: Stack, stream: Stream) -> None:
    stream.send([event(number) for number in range(3)])
    stream.stream()
    backup = copy_of(stack, stream)
    stream.send([event(number) for number in range(3, 12)])
    stream.stream()
    for future in stream.admin.delete_consumer_groups([stream.config.kafka.group]).values():
        future.result()

    with restored(stream, backup) as again:
        found = run(again)
        assert (found.reconciled.lost, found.reconciled.published) == (9, {})
        again.stream()
        assert again.published_ids() == again.table_ids() == stream.table_ids()
        assert violations(again) == []


@pytest.mark.slow
def test_open_messages_are_in_doubt_and_lost_offsets_and_files_are_named(
    stack: Stack, stream: Stream, local_folder: Path
) -> None:
    lost_bundle = local_folder / "lost-bundle"
    save_bundle(small_bundle(), str(lost_bundle))
    model_versions.register(stream.connection, version=2, uri=str(lost_bundle), run_id="another", metrics={})
    alert_outbox.add(stream.connection, kind="operator", reference="a", payload={}, targets=["team"])
    stream.send([event(number) for number in range(6)])
    stream.stream()
    backup = copy_of(stack, stream)
    stream.send([event(number) for number in range(6, 12)])
    stream.stream()
    shutil.rmtree(lost_bundle)
    stream.send([event(number) for number in range(12, 18)])
    delete_records(stream, stream.config.events_topic)

    with restored(stream, backup) as again:
        found = run(again)
        assert [(each.reference, each.target) for each in found.reconciled.doubtful] == [("a", "team")]
        assert again.rows("select status from alert_outbox") == [("in_doubt",)]
        topic = stream.config.events_topic
        assert sum(f"churn stream reset --topic {topic}" in problem for problem in found.problems) == 3
        assert any(f"version 2 is missing: {lost_bundle}" in problem for problem in found.problems)
        assert run(again).reconciled.doubtful == []
