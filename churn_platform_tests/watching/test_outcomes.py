"""The outcomes topic on real Kafka: each message counts once, and none vanishes."""

from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest

from churn_platform.streaming.events import known_as
from churn_platform.streaming.exceptions import LedgerConflictError, RangeLostError
from churn_platform.watching import outcomes
from churn_platform.watching.outcomes import Taken
from churn_platform_tests.watching.conftest import Outcomes

LEFT = {"event_id": "0190b2a4-0000-7000-8000-000000000001", "true_churn_label": 1}
STAYED = {"CustomerId": 15_600_001, "true_churn_label": 0, "outcome_timestamp": "2026-11-25T12:00:00+01:00"}


def rows(outcome_topic: Outcomes, table: str = "customer_outcomes") -> int:
    """How many there are."""
    query = psycopg.sql.SQL("select count(*) from {}").format(psycopg.sql.Identifier(table))
    found = outcome_topic.connection.execute(query).fetchone()
    assert found is not None
    return int(found[0])


def test_a_topic_that_does_not_exist_has_nothing_to_read(outcome_topic: Outcomes) -> None:
    assert outcome_topic.waiting() == 0
    assert outcome_topic.take() == Taken()


def test_outcomes_are_rows_once(outcome_topic: Outcomes) -> None:
    outcome_topic.make()
    outcome_topic.send(LEFT, STAYED, {**LEFT, "event_id": "order-7"}, {**STAYED, "extra": 1})
    assert outcome_topic.waiting() == 4

    assert outcome_topic.take() == Taken(left=2, stayed=2)
    assert outcome_topic.take() == Taken()

    assert outcome_topic.waiting() == 0
    found = outcome_topic.connection.execute(
        "select event_id, customer_id, churned, outcome_timestamp from customer_outcomes order by 3 desc, 1"
    ).fetchall()
    moment = datetime(2026, 11, 25, 11, tzinfo=UTC)
    assert {event_id for event_id, *_ in found[:2]} == {UUID(str(LEFT["event_id"])), known_as("order-7")}
    assert [tuple(row) for row in found[2:]] == [(None, 15_600_001, 0, moment)] * 2
    assert all(abs((datetime.now(UTC) - at).total_seconds()) < 300 for *_, at in found[:2])  # Kafka's own time


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"{", "ends too early"),
        ({"true_churn_label": 1}, "neither an event_id nor a CustomerId"),
        ({"CustomerId": 1}, "true_churn_label is missing"),
        ({**LEFT, "true_churn_label": 2}, "true_churn_label: expected 0 or 1"),
        ({**STAYED, "outcome_timestamp": "yesterday"}, "outcome_timestamp: expected"),
    ],
)
def test_what_says_nothing_is_kept_with_its_reason(outcome_topic: Outcomes, value: object, reason: str) -> None:
    outcome_topic.make()
    outcome_topic.send(LEFT, value)  # type: ignore[arg-type]

    assert outcome_topic.take() == Taken(left=1, refused=1)

    (found,) = outcome_topic.connection.execute("select reason, payload from refused_outcomes").fetchall()
    assert reason in found[0]
    assert (found[1] is None) == (value is None)


def test_a_reader_that_is_cut_off_goes_on_where_its_last_transaction_ended(
    outcome_topic: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome_topic.make()
    outcome_topic.send(*[LEFT, STAYED] * 10)
    monkeypatch.setattr(outcomes, "CHUNK", 4)
    allowed = iter(range(13))
    decode = outcomes.decode

    def cut_off(message: object) -> object:
        if next(allowed, None) is None:
            raise KeyboardInterrupt
        return decode(message)  # type: ignore[arg-type]

    monkeypatch.setattr(outcomes, "decode", cut_off)
    with pytest.raises(KeyboardInterrupt):
        outcome_topic.take()
    before = rows(outcome_topic)
    monkeypatch.setattr(outcomes, "decode", decode)

    rest = outcome_topic.take()

    assert 0 < before < 20
    assert rest.left + rest.stayed == 20 - before
    assert rows(outcome_topic) == 20


def test_of_two_readers_at_once_one_writes(
    outcome_topic: Outcomes, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome_topic.make()
    outcome_topic.send(LEFT, STAYED)
    decode = outcomes.decode

    def another_first(message: object) -> object:
        monkeypatch.setattr(outcomes, "decode", decode)
        with psycopg.connect(database) as connection:
            Outcomes(outcome_topic.topic, connection, outcome_topic.admin).take()
        return decode(message)  # type: ignore[arg-type]

    monkeypatch.setattr(outcomes, "decode", another_first)
    with pytest.raises(LedgerConflictError, match="Nothing was written"):
        outcome_topic.take()

    assert rows(outcome_topic) == 2


def test_outcomes_that_kafka_deleted_before_they_were_read_are_said_to_be_lost(outcome_topic: Outcomes) -> None:
    from confluent_kafka import TopicPartition

    outcome_topic.make()
    outcome_topic.send(LEFT)
    outcome_topic.take()
    outcome_topic.send(*[LEFT, STAYED] * 3)
    for future in outcome_topic.admin.delete_records([TopicPartition(outcome_topic.topic, 0, 3)]).values():
        future.result()

    with pytest.raises(RangeLostError, match="Retention has deleted them"):
        outcome_topic.take()
