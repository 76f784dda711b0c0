"""Ingestion of the outcomes topic on real Kafka: each message counts exactly once."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.database.exceptions import LedgerConflictError
from churn_platform.decoding.event_ids import canonical_event_id
from churn_platform.decoding.outcomes import Outcome, RejectedOutcome, outcome_decoder
from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import RangeLostError
from churn_platform.kafka.messages import Received
from churn_platform.local.stack import Stack
from churn_platform.monitoring.outcomes import IngestResult
from churn_platform.operations import outcome_reset
from churn_platform.operations.exceptions import ResetError
from churn_platform.operations.verification.invariants import Invariant
from churn_platform.operations.verification.outcomes import outcomes
from churn_platform_tests.features.customers import BANK
from churn_platform_tests.monitoring.conftest import Outcomes
from churn_platform_tests.stream.messages import MEGABYTE, bad_values
from churn_platform_tests.waiting import wait_until

DECODER = outcome_decoder(BANK)
LEFT = {"event_id": "0190b2a4-0000-7000-8000-000000000001", "true_churn_label": 1}
INVALID = (
    b"",
    b"[" * 100_000,
    b'{"more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"true_churn_label": 1, "CustomerId": ' + b"9" * 5_000 + b"}",
    b'{"true_churn_label": 1e999, "CustomerId": 1}',
    b'{"true_churn_label": 1, "CustomerId": -1}',
    b'{"true_churn_label": 1, "CustomerId": 4611686018427387905}',
    b'{"true_churn_label": 1, "event_id": "\\ud800"}',
    b'{"true_churn_label": 1, "event_id": "a\\u0000b"}',
    b'{"true_churn_label": 1, "event_id": "\xff"}',
    b'{"true_churn_label": 1, "event_id": "' + b"x" * 900_000 + b'"}',
    b'{"true_churn_label": 1, "CustomerId": 1, "outcome_timestamp": "2026-11-25T24:00:00Z"}',
    b'{"true_churn_label": 1, "CustomerId": 1, "outcome_timestamp": "2026-11-25T00:00:00"}',
    b'{"true_churn_label": 1, "CustomerId": 1, "outcome_timestamp": 1795510800}',
)
STAYED = {"CustomerId": 15_600_001, "true_churn_label": 0, "outcome_timestamp": "2026-11-25T12:00:00+01:00"}


def rows(outcome_topic: Outcomes, table: str = "customer_outcomes") -> int:
    """Return the number of rows in a table."""
    query = psycopg.sql.SQL("select count(*) from {}").format(psycopg.sql.Identifier(table))
    found = outcome_topic.connection.execute(query).fetchone()
    assert found is not None
    return int(found[0])


def invariant(outcome_topic: Outcomes) -> Invariant:
    """Return the invariant of outcomes received in the last 30 days."""
    info = outcome_topic.connection.info
    config = replace(outcome_topic.config, dsn=make_conninfo(info.dsn, password=info.password))
    since = datetime.now(UTC) - timedelta(days=30)
    return outcomes(config, outcome_topic.topic, complete_since=since)


def test_each_message_is_stored_refused_or_skipped(outcome_topic: Outcomes) -> None:
    assert invariant(outcome_topic).holds
    outcome_topic.create()
    assert invariant(outcome_topic).figures["messages"] == 0
    outcome_topic.send(*[LEFT, STAYED] * 4, b"{", partition=0)
    outcome_topic.ingest()
    outcome_topic.send(*[LEFT] * 3, partition=0)
    config = outcome_topic.config
    move = outcome_reset.plan(outcome_topic.connection, config, topic=outcome_topic.topic, partition=0, to="11")
    assert move is not None
    outcome_reset.apply(outcome_topic.connection, move, reason="not wanted")
    outcome_topic.ingest()
    outcome_topic.delete_before(2)
    outcome_topic.send(LEFT)  # not read yet

    found = invariant(outcome_topic)

    assert found.violations == []
    assert found.figures == {
        "messages": 12, "outcomes": 9, "refused": 1, "skipped": 2, "deleted": 2, "partitions": 1, "violations": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("delete from customer_outcomes where kafka_offset = 1", "[0] offset 1 was read, but"),
        ("delete from refused_outcomes", "[0] offset 2 was read, but"),
        ("update outcome_positions set next_offset = next_offset + 1", "ends at 3, but was read up to 4"),
        ("update customer_outcomes set kafka_offset = 7 where kafka_offset = 1", "but the position is 3"),
        (
            "insert into refused_outcomes (topic_id, kafka_partition, kafka_offset, reason) "
            "select topic_id, kafka_partition, 1, '' from refused_outcomes",
            "[0] offset 1 counts twice",
        ),
    ],
)
def test_an_outcome_that_is_lost_or_counts_twice_is_found(
    outcome_topic: Outcomes, damage: LiteralString, expected: str
) -> None:
    outcome_topic.create()
    outcome_topic.send(LEFT, STAYED, b"{", partition=0)
    outcome_topic.ingest()
    assert invariant(outcome_topic).holds

    outcome_topic.connection.execute(damage)

    found = invariant(outcome_topic)
    assert not found.holds
    assert expected in " ".join(found.violations)


def test_outcomes_deleted_because_of_their_age_are_not_violations(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send(LEFT, STAYED, partition=0)
    outcome_topic.ingest()
    outcome_topic.connection.execute("update outcome_reads set opened = opened - interval '40 days'")
    outcome_topic.connection.execute("delete from customer_outcomes")
    outcome_topic.send(LEFT, partition=0)
    outcome_topic.ingest()

    found = invariant(outcome_topic)

    assert found.violations == []
    assert found.figures["messages"] == 1


def test_a_topic_that_does_not_exist_has_nothing_to_read(outcome_topic: Outcomes) -> None:
    assert outcome_topic.lag() == 0
    assert outcome_topic.ingest() == IngestResult()


def test_each_outcome_becomes_one_row(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send(LEFT, STAYED, {**LEFT, "event_id": "order-7"}, {**STAYED, "extra": 1})
    assert outcome_topic.lag() == 4

    assert outcome_topic.ingest() == IngestResult(left=2, stayed=2)
    assert outcome_topic.ingest() == IngestResult()

    assert outcome_topic.lag() == 0
    found = outcome_topic.connection.execute(
        "select event_id, customer_id, churned, outcome_timestamp from customer_outcomes order by 3 desc, 1"
    ).fetchall()
    moment = datetime(2026, 11, 25, 11, tzinfo=UTC)
    assert {event_id for event_id, *_ in found[:2]} == {UUID(str(LEFT["event_id"])), canonical_event_id("order-7")}
    assert [tuple(row) for row in found[2:]] == [(None, 15_600_001, 0, moment)] * 2
    assert all(abs((datetime.now(UTC) - at).total_seconds()) < 300 for *_, at in found[:2])  # Kafka's timestamp


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
def test_an_invalid_outcome_is_stored_with_its_reason(
    outcome_topic: Outcomes, value: Mapping[str, object] | bytes | None, reason: str
) -> None:
    outcome_topic.create()
    outcome_topic.send(LEFT, value)

    assert outcome_topic.ingest() == IngestResult(left=1, rejected=1)

    (found,) = outcome_topic.connection.execute("select reason, payload from refused_outcomes").fetchall()
    assert reason in found[0]
    assert (found[1] is None) == (value is None)


def test_an_interrupted_ingestion_continues_after_its_last_transaction(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send(*[LEFT, STAYED] * 10)
    allowed = iter(range(13))

    def interrupt(message: Received, accepts_from: datetime, accepts_until: datetime) -> Outcome | RejectedOutcome:
        if next(allowed, None) is None:
            raise KeyboardInterrupt
        return DECODER.decode(message, accepts_from, accepts_until)

    with pytest.raises(KeyboardInterrupt):
        outcome_topic.ingest(chunk=4, decode_message=interrupt)
    before = rows(outcome_topic)

    rest = outcome_topic.ingest()

    assert 0 < before < 20
    assert rest.left + rest.stayed == 20 - before
    assert rows(outcome_topic) == 20


def test_concurrent_ingestions_count_each_message_once(outcome_topic: Outcomes, database: str) -> None:
    outcome_topic.create()
    outcome_topic.send(*[LEFT, STAYED] * 50)

    def ingest(_: int) -> IngestResult:
        with psycopg.connect(database) as connection:
            return Outcomes(outcome_topic.topic, connection, outcome_topic.admin).ingest()

    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(ingest, range(3)))

    assert sorted(each.left for each in results) == [0, 0, 50]
    assert rows(outcome_topic) == 100


def test_a_position_that_is_reset_during_a_run_is_respected(outcome_topic: Outcomes, database: str) -> None:
    outcome_topic.create()
    outcome_topic.send(*[LEFT] * 4, partition=0)
    first = iter([True])

    def reset_first(message: Received, accepts_from: datetime, accepts_until: datetime) -> Outcome | RejectedOutcome:
        if not next(first, False):
            return DECODER.decode(message, accepts_from, accepts_until)
        with psycopg.connect(database) as connection:
            move = outcome_reset.plan(connection, outcome_topic.config, topic=outcome_topic.topic, partition=0, to="3")
            assert move is not None
            outcome_reset.apply(connection, move, reason="only a test")
        return DECODER.decode(message, accepts_from, accepts_until)

    with pytest.raises(LedgerConflictError, match="was moved to offset 3 while this run read from 0"):
        outcome_topic.ingest(decode_message=reset_first)

    assert rows(outcome_topic) == 0
    assert outcome_topic.ingest() == IngestResult(left=1)


def test_outcomes_that_retention_deleted_before_they_were_read_are_reported_as_lost(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send(LEFT)
    outcome_topic.ingest()
    outcome_topic.send(*[LEFT, STAYED] * 3)
    outcome_topic.delete_before(3)

    with pytest.raises(RangeLostError) as raised:
        outcome_topic.ingest()

    assert "no longer holds offsets 1..2" in raised.value.problem
    assert raised.value.remedy == (
        f"Accept the loss with 'churn outcomes reset --topic {outcome_topic.topic} --partition 0 --to 3', or restore "
        f"the topic."
    )
    assert outcome_topic.lag() == 6


def test_an_accepted_loss_is_recorded_and_the_rest_is_read(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send(*[LEFT] * 5, partition=0)
    outcome_topic.send(STAYED, partition=1)
    outcome_topic.ingest()
    outcome_topic.send(*[LEFT] * 5, partition=0)
    outcome_topic.delete_before(8)
    connection, config = outcome_topic.connection, outcome_topic.config

    move = outcome_reset.plan(connection, config, topic=outcome_topic.topic, partition=0, to="earliest")
    assert move is not None
    assert (move.position, move.end, move.still_held) == (5, 8, 0)
    outcome_reset.apply(connection, move, reason="lost by retention")

    assert outcome_topic.ingest() == IngestResult(left=2)
    assert connection.execute(
        "select kafka_partition, start_offset, end_offset, reason from outcome_skips"
    ).fetchall() == [(0, 5, 8, "lost by retention")]
    with pytest.raises(ResetError, match="is no longer at offset 5 but at 10"):
        outcome_reset.apply(connection, move, reason="again")


@pytest.mark.parametrize(
    ("partition", "to", "problem"),
    [
        (0, "1", "cannot move back to 1, because each outcome counts once"),
        (0, "earliest", "Nothing is lost"),
        (0, "99", "past its end"),
        (7, "latest", "has no partition 7; it has 0, 1"),
        (0, "soon", "expected an offset"),
    ],
)
def test_a_position_moves_only_forward_and_within_the_topic(
    outcome_topic: Outcomes, partition: int, to: str, problem: str
) -> None:
    outcome_topic.create()
    outcome_topic.send(*[LEFT] * 4)
    outcome_topic.ingest()

    with pytest.raises(ResetError, match=problem):
        outcome_reset.plan(
            outcome_topic.connection, outcome_topic.config, topic=outcome_topic.topic, partition=partition, to=to
        )


def test_a_skipped_offset_is_not_read_and_its_neighbours_are(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send(LEFT, b"bad", STAYED, partition=0)
    outcome_topic.send(b"bad", partition=1)
    connection, config = outcome_topic.connection, outcome_topic.config

    move = outcome_reset.plan_skip(connection, config, topic=outcome_topic.topic, partition=0, offset=1)
    outcome_reset.apply_skip(connection, move, reason="only a test")

    assert outcome_topic.ingest() == IngestResult(left=1, stayed=1, rejected=1)
    assert outcome_topic.rejected().keys() == {(1, 0)}
    with pytest.raises(ResetError, match="was already read"):
        outcome_reset.plan_skip(connection, config, topic=outcome_topic.topic, partition=0, offset=1)
    with pytest.raises(ResetError, match="there is no offset 3 yet"):
        outcome_reset.plan_skip(connection, config, topic=outcome_topic.topic, partition=0, offset=3)


def test_a_topic_that_was_created_again_is_read_from_its_beginning(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send(*[LEFT] * 4)
    outcome_topic.ingest()
    for future in outcome_topic.admin.delete_topics([outcome_topic.topic]).values():
        future.result()
    wait_until(lambda: outcome_topic.topic not in outcome_topic.admin.list_topics(timeout=10).topics)
    outcome_topic.create()
    outcome_topic.send(STAYED, STAYED)

    assert outcome_topic.lag() == 2
    assert outcome_topic.ingest() == IngestResult(stayed=2)


# Invalid outcomes


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("9999-12-31T23:59:59-01:00", "is after"),
        ("9999-12-31T23:59:59.999999Z", "is after"),
        ("0001-01-01T00:00:00+01:00", "is before"),
        ("2099-01-01T00:00:00Z", "Is the producer's clock or its time zone wrong?"),
        (
            "1970-01-21T12:00:00Z",
            "is before 2026-01-01T00:00:00+00:00, where the platform's events start (STREAM_EPOCH)",
        ),
    ],
)
def test_an_impossible_time_is_rejected_and_the_next_outcome_is_read(
    outcome_topic: Outcomes, moment: str, reason: str
) -> None:
    outcome_topic.create()
    outcome_topic.send({**STAYED, "outcome_timestamp": moment}, LEFT, partition=0)

    assert outcome_topic.ingest() == IngestResult(left=1, rejected=1)

    assert reason in outcome_topic.rejected()[0, 0]


def test_a_kafka_timestamp_in_seconds_is_rejected_with_the_likely_cause(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send(LEFT, timestamp=round(datetime.now(UTC).timestamp()))

    assert outcome_topic.ingest() == IngestResult(rejected=1)

    (reason,) = outcome_topic.rejected().values()
    assert reason.startswith("Kafka's timestamp, used when there is no outcome_timestamp, 1970-01-")
    assert "Is it in seconds instead of milliseconds?" in reason


def test_an_outcome_from_the_future_does_not_override_a_later_one(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send({**STAYED, "outcome_timestamp": "2099-01-01T00:00:00Z"}, {**STAYED, "true_churn_label": 1})

    outcome_topic.ingest()

    assert outcome_topic.connection.execute("select churned from customer_outcomes").fetchall() == [(1,)]


def test_an_interrupted_reading_continues_with_the_times_that_it_was_opened_with(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    outcome_topic.send({**STAYED, "outcome_timestamp": "2026-11-20T00:00:00Z"}, LEFT, partition=0)
    topic_id = topics.describe(outcome_topic.admin, outcome_topic.topic).topic_id
    outcome_topic.connection.execute(
        "insert into outcome_reads (topic_id, kafka_partition, start_offset, end_offset, accepts_from, accepts_until) "
        "values (%s, 0, 0, 1, '2026-01-01', '2026-11-10')",
        (topic_id,),
    )

    assert outcome_topic.ingest() == IngestResult(rejected=1)
    assert "is after 2026-11-10" in outcome_topic.rejected()[0, 0]
    assert outcome_topic.ingest() == IngestResult(left=1)  # the next offset belongs to another reading


def test_an_outcome_that_postgresql_rejects_is_stored_with_its_reason_and_the_others_are_stored(
    outcome_topic: Outcomes, stack: Stack
) -> None:
    name = conninfo_to_dict(outcome_topic.connection.info.dsn)["dbname"]
    with psycopg.connect(make_conninfo(stack.owner_dsn, dbname=name)) as owner:
        owner.execute("alter table customer_outcomes add constraint nobody check (customer_id is distinct from 7)")
    outcome_topic.create()
    outcome_topic.send(LEFT, {**STAYED, "CustomerId": 7}, STAYED, partition=0)

    assert outcome_topic.ingest() == IngestResult(left=1, stayed=1, rejected=1)

    assert 'violates check constraint "nobody"' in outcome_topic.rejected()[0, 1]
    assert rows(outcome_topic) == 2


def test_messages_with_keys_headers_and_any_bytes_are_each_an_outcome_or_rejected(outcome_topic: Outcomes) -> None:
    outcome_topic.create()
    values = [value for value, _ in bad_values().values() if len(value or b"") < MEGABYTE // 2] + list(INVALID)
    outcome_topic.send(*values, key=b"\x00\xff", headers=[("h", b"\xff"), ("h", None)])
    outcome_topic.send(LEFT, LEFT)

    result = outcome_topic.ingest()

    assert result.left + result.stayed + result.rejected == len(values) + 2
    assert result.left >= 2
    assert len(outcome_topic.rejected()) == result.rejected
    assert outcome_topic.lag() == 0
