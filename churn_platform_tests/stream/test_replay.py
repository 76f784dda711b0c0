"""A replay reads the same events again, scores them with the champion and replaces the rows."""

import pytest
from confluent_kafka import TopicPartition

from churn_platform.database import model_versions
from churn_platform.stream.exceptions import ReplayError
from churn_platform_tests.stream.streams import Stream, event

SNAPSHOT = """
    select event_id, risk_score, prediction, batch, kafka_partition, kafka_offset, event_timestamp, age
    from churn_predictions order by event_id
"""

HOURS = """
    select hour_timestamp, total_predictions, churn_count, high_risk_count, age_count from churn_batch_hours order by 1
"""


@pytest.mark.slow
def test_replaying_a_batch_leaves_the_same_rows_sums_and_topic(stream: Stream) -> None:
    first = event(0)
    stream.send([first, *(event(number) for number in range(300)), first, b"bad"])
    batch = stream.stream(commit_events=100)
    before, hours, published = stream.rows(SNAPSHOT), stream.rows(HOURS), stream.published_ids()

    outcome = stream.materialize(batch.batch)

    assert outcome.metadata["mode"] == "replay"
    assert stream.rows(SNAPSHOT) == before
    assert stream.rows(HOURS) == hours
    assert stream.published_ids() == published
    assert stream.batch(batch.batch).replays == 1
    assert stream.batch(batch.batch).duplicates == 1


@pytest.mark.slow
def test_a_replay_scores_with_the_current_champion_and_never_touches_alerts(stream: Stream, bundle_uri: str) -> None:
    stream.send([event(number) for number in range(50)])
    batch = stream.stream(high_risk_threshold=0.0)
    stream.connection.execute("update high_risk_customers set alert_sent = true, alert_sent_at = now()")
    stream.connection.execute("update stream_batches set high_risk_threshold = 2")  # no score of the replay reaches it
    model_versions.register(stream.connection, version=2, uri=bundle_uri, run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)

    stream.materialize(batch.batch)

    assert stream.rows("select distinct model_version from churn_predictions") == [(2,)]
    assert stream.value("select count(*) from high_risk_customers where alert_sent") == 50


def test_a_replay_uses_the_threshold_of_its_batch(stream: Stream) -> None:
    stream.send([event(number) for number in range(50)])
    batch = stream.stream(high_risk_threshold=0.5)
    query = "select event_id, risk_score from high_risk_customers order by 1"
    before, hours = stream.rows(query), stream.rows(HOURS)
    assert 0 < len(before) < 50

    stream.materialize(batch.batch, high_risk_threshold=0.1)

    assert batch.high_risk_threshold == 0.5
    assert (stream.rows(query), stream.rows(HOURS)) == (before, hours)


def test_a_run_with_another_threshold_leaves_the_open_batch(stream: Stream) -> None:
    key = stream.plan()
    stream.commit_and_die(key, [event(number) for number in range(5)])

    stream.materialize(key, high_risk_threshold=0.3)

    assert stream.batch(key).closed is not None
    assert stream.batch(key).high_risk_threshold == stream.config.high_risk_threshold
    assert any("HIGH_RISK_THRESHOLD has changed" in line for line in stream.log)


def test_a_replay_whose_events_are_gone_changes_nothing(stream: Stream) -> None:
    stream.send([event(number) for number in range(30)], partition=0)
    batch = stream.stream()
    before = stream.rows(SNAPSHOT)
    deleted = stream.admin.delete_records([TopicPartition(stream.config.events_topic, 0, 10)])
    for future in deleted.values():
        future.result()

    with pytest.raises(ReplayError, match="holds offsets"):
        stream.materialize(batch.batch)

    assert stream.rows(SNAPSHOT) == before


@pytest.mark.slow
def test_several_closed_batches_replay_in_one_run(stream: Stream) -> None:
    keys = []
    for _ in range(2):
        stream.send([event(number) for number in range(10)])
        keys.append(stream.stream().batch)
    before = stream.rows(SNAPSHOT)

    stream.materialize(*keys)

    assert stream.rows(SNAPSHOT) == before
    assert [stream.batch(key).replays for key in keys] == [1, 1]


def test_a_run_over_several_batches_refuses_one_that_is_not_closed(stream: Stream) -> None:
    stream.send([event(1)])
    closed, planned = stream.stream().batch, stream.plan()

    with pytest.raises(ReplayError, match=planned):
        stream.materialize(closed, planned)

    assert stream.batch(closed).replays == 0
