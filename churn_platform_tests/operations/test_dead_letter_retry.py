"""Dead letters: found, corrected, retried once, and kept by a replay."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from churn_platform.database import dead_letter_events
from churn_platform.database.dead_letter_events import DeadLetterFilter, DeadLetterState, StoredDeadLetter
from churn_platform.decoding.event_ids import positional_id
from churn_platform.operations import dead_letter_retry
from churn_platform.operations.dead_letter_retry import Correction
from churn_platform.operations.exceptions import DeadLetterError
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.exceptions import ReplayError
from churn_platform_tests.bank import CUSTOMER
from churn_platform_tests.stream.streams import Stream, event


def only_dead_letter(stream: Stream) -> StoredDeadLetter:
    """Return the only dead letter."""
    (dead_letter,) = dead_letter_events.find(stream.connection, DeadLetterFilter(), limit=9)
    return dead_letter


def make_dead_letter(stream: Stream, value: dict[str, object] | bytes | None) -> StoredDeadLetter:
    """Send a value that becomes a dead letter; return the dead letter."""
    stream.send([value], partition=0)
    stream.stream()
    return only_dead_letter(stream)


def retry(stream: Stream, dead_letter: StoredDeadLetter, **changes: object) -> Correction:
    """Retry a dead letter with changes."""
    corrected = dead_letter_retry.correct(dead_letter, stream.config, changes=changes)
    dead_letter_retry.retry(stream.connection, stream.config, [corrected])
    return corrected


@pytest.mark.slow
def test_a_corrected_event_is_scored_and_resolves_its_dead_letter(stream: Stream) -> None:
    dead_letter = make_dead_letter(stream, event(7, Gender=None))
    assert dead_letter.state is DeadLetterState.OPEN

    corrected = retry(stream, dead_letter, Gender="Female")
    assert only_dead_letter(stream).state is DeadLetterState.RETRIED
    assert dead_letter_retry.count_unresolved(stream.connection, [corrected]) == 1
    batch = stream.stream()

    assert (batch.events, batch.predictions) == (1, 1)
    assert only_dead_letter(stream).state is DeadLetterState.RESOLVED
    assert dead_letter_retry.count_unresolved(stream.connection, [corrected]) == 0
    assert stream.table_ids() == [
        str(positional_id(dead_letter.topic_id, dead_letter.kafka_partition, dead_letter.kafka_offset))
    ]
    assert stream.value("select gender from churn_predictions") == "Female"
    assert all(invariant.holds for invariant in check_invariants(stream.config))


@pytest.mark.slow
def test_a_dead_letter_retried_twice_counts_once(stream: Stream) -> None:
    dead_letter = make_dead_letter(stream, event(7, Gender=None))
    retry(stream, dead_letter, Gender="Female")
    retry(stream, only_dead_letter(stream), Gender="Female")

    batch = stream.stream()

    assert (batch.events, batch.predictions, batch.duplicates) == (2, 1, 1)


@pytest.mark.slow
def test_a_resolved_dead_letter_is_not_sent_again(stream: Stream) -> None:
    dead_letter = make_dead_letter(stream, event(7, Gender=None))
    corrected = retry(stream, dead_letter, Gender="Female")
    stream.stream()

    with pytest.raises(DeadLetterError, match="was resolved at"):
        retry(stream, only_dead_letter(stream), Gender="Male")
    with pytest.raises(DeadLetterError, match="Nothing was sent"):
        dead_letter_retry.retry(stream.connection, stream.config, [corrected])

    assert stream.waiting() == 0


@pytest.mark.slow
def test_the_retry_of_an_event_without_a_time_has_kafkas_timestamp(stream: Stream) -> None:
    dead_letter = make_dead_letter(stream, {**CUSTOMER, "CustomerId": 1, "Age": 7})

    retry(stream, dead_letter, Age=70)
    stream.stream()

    assert stream.value("select event_timestamp from churn_predictions") == dead_letter.kafka_timestamp


@pytest.mark.slow
def test_a_wrapped_event_is_corrected_inside_its_wrapper(stream: Stream) -> None:
    dead_letter = make_dead_letter(stream, {"timestamp": "2026-11-24T08:00:00Z", "data": event(7, Tenure=-1)})

    retry(stream, dead_letter, Tenure=5)
    stream.stream()

    assert stream.value("select tenure from churn_predictions") == 5


def test_a_correction_that_would_be_a_dead_letter_again_is_refused_with_the_reason(stream: Stream) -> None:
    dead_letter = make_dead_letter(stream, event(7, Gender=None))

    for changes, reason in (
        ({"Gender": "Other"}, "Gender"),
        ({"Gender": "Male", "event_timestamp": "2001-01-01T00:00:00Z"}, "STREAM_EPOCH"),
        ({"Gender": "Male", "event_timestamp": (datetime.now(UTC) + timedelta(days=1)).isoformat()}, "the latest"),
    ):
        with pytest.raises(DeadLetterError, match=f"dead letter again.*{reason}"):
            dead_letter_retry.correct(dead_letter, stream.config, changes=changes)

    assert only_dead_letter(stream).state is DeadLetterState.OPEN


@pytest.mark.slow
@pytest.mark.parametrize("payload", [b"no json", None, b"[1, 2]", b"\xff\x00", b'{"timestamp": 1, "data": 2}'])
def test_a_payload_that_is_not_an_object_needs_the_whole_event(stream: Stream, payload: bytes | None) -> None:
    dead_letter = make_dead_letter(stream, payload)

    with pytest.raises(DeadLetterError, match="--file"):
        dead_letter_retry.correct(dead_letter, stream.config, changes={"Gender": "Male"})
    whole = dead_letter_retry.correct(dead_letter, stream.config, changes={"Age": 33}, event=event(3))

    sent = json.loads(whole.value)
    assert (sent["Age"], sent["event_id"], whole.key) == (33, str(whole.event_id), "15600003")


def test_a_file_that_holds_no_event_is_refused(tmp_path: Path, bank_schema: CustomerSchema) -> None:
    file = tmp_path / "corrected.json"
    with pytest.raises(DeadLetterError, match="cannot be read"):
        dead_letter_retry.read_event(file, bank_schema)
    file.write_text("[]")
    with pytest.raises(DeadLetterError, match="does not hold an event"):
        dead_letter_retry.read_event(file, bank_schema)


@pytest.mark.slow
def test_dead_letters_are_found_by_reason_time_and_state(stream: Stream) -> None:
    stream.send([event(1, Gender=None), event(2, Age=3), b"bad"], partition=0)
    stream.stream()
    connection = stream.connection
    connection.execute("update dead_letter_events set received_at = now() - interval '2 days' where kafka_offset = 2")
    retry(stream, dead_letter_retry.find_one(connection, 0, 1), Age=33)

    def offsets(**chosen: object) -> list[int]:
        found = dead_letter_events.find(connection, DeadLetterFilter(**chosen), limit=9)  # type: ignore[arg-type]  # of any type
        return [dead_letter.kafka_offset for dead_letter in found]

    assert offsets() == [0, 1, 2]
    assert offsets(reason="GENDER") == [0]
    assert offsets(reason="%") == []
    assert offsets(since=datetime.now(UTC) - timedelta(days=1)) == [0, 1]
    assert offsets(state=DeadLetterState.OPEN) == [0, 2]
    assert offsets(state=DeadLetterState.RETRIED) == [1]
    assert offsets(state=DeadLetterState.RESOLVED) == []
    assert len(dead_letter_events.find(connection, DeadLetterFilter(), limit=1)) == 1


@pytest.mark.slow
def test_reasons_that_differ_only_in_times_and_places_are_of_one_kind(stream: Stream) -> None:
    scored = [event(number) for number in range(2)]
    stream.send(scored)
    stream.stream()
    stream.send([*({**each, "Balance": 1.0} for each in scored)])
    stream.send([event(1, event_timestamp=f"200{year}-01-01T00:00:00Z") for year in range(3)])
    stream.stream()

    found = dead_letter_events.count_kinds(stream.connection, DeadLetterFilter())

    assert [(kind.count, kind.open, kind.retried) for kind in found] == [(3, 3, 0), (2, 2, 0)]
    assert "STREAM_EPOCH" in found[0].reason
    assert "batch …, Kafka partition …, offset …" in found[1].reason


@pytest.mark.slow
def test_dead_letters_of_different_topics_at_the_same_place_are_distinguished(stream: Stream) -> None:
    dead_letter = make_dead_letter(stream, b"bad")
    stream.connection.execute("insert into stream_topics values ('earlier', 'events')")
    stream.connection.execute(
        "insert into dead_letter_events select 'earlier', kafka_partition, kafka_offset, batch, topic, 'of old' "
        ", payload, kafka_timestamp, received_at from dead_letter_events"
    )

    with pytest.raises(DeadLetterError, match="--topic-id"):
        dead_letter_retry.find_one(stream.connection, 0, 0)

    assert dead_letter_retry.find_one(stream.connection, 0, 0, topic_id="earlier").reason == "of old"
    assert (
        dead_letter_retry.find_one(stream.connection, 0, 0, topic_id=dead_letter.topic_id).reason == dead_letter.reason
    )


@pytest.mark.slow
def test_a_replay_keeps_the_times_and_the_state_of_a_dead_letter(stream: Stream) -> None:
    stream.send([event(1, Gender=None), b"bad", event(2)], partition=0)
    batch = stream.stream()
    retry(stream, dead_letter_retry.find_one(stream.connection, 0, 0), Gender="Female")
    stream.stream()
    before = dead_letter_events.find(stream.connection, DeadLetterFilter(), limit=9)

    stream.materialize(batch.batch)

    assert dead_letter_events.find(stream.connection, DeadLetterFilter(), limit=9) == before
    assert [dead_letter.state for dead_letter in before] == [DeadLetterState.RESOLVED, DeadLetterState.OPEN]
    assert stream.batch(batch.batch).replays == 1


def test_a_dead_letter_that_is_valid_in_a_replay_is_deleted(stream: Stream) -> None:
    batch = _batch_whose_dead_letter_is_now_valid(stream)

    stream.materialize(batch)

    assert dead_letter_events.find(stream.connection, DeadLetterFilter(), limit=9) == []
    assert len(stream.table_ids()) == 1


@pytest.mark.slow
def test_a_replay_that_would_count_a_retried_dead_letter_twice_changes_nothing(stream: Stream) -> None:
    batch = _batch_whose_dead_letter_is_now_valid(stream)
    retry(stream, only_dead_letter(stream), event_timestamp=datetime.now(UTC).isoformat())
    stream.stream()

    with pytest.raises(ReplayError, match="both would count"):
        stream.materialize(batch)

    assert only_dead_letter(stream).state is DeadLetterState.RESOLVED
    assert (stream.batch(batch).replays, len(stream.table_ids())) == (0, 1)


def _batch_whose_dead_letter_is_now_valid(stream: Stream) -> str:
    """Stream a batch whose only event is too old, then change what the batch accepts; return the batch."""
    make_dead_letter(stream, event(1, event_timestamp="2020-01-01T00:00:00Z"))
    stream.connection.execute("update stream_batches set accepts_from = '2019-01-01' where events > 0")
    return str(stream.value("select batch from stream_batches where events > 0"))


VARIANTS = [
    ("a value", [event(1, Age=7), event(1, Age=8), event(1, Age="it's 'quoted'")]),
    ("a value, and more after it", [json.dumps(event(1, CreditScore=score)).encode() + b" x" for score in (1.5, 2.5)]),
    ("names that were found", [{"Age": 40}, {"Age": 40, "Tenure": 1}]),
    ("an early end", [json.dumps(event(1)).encode()[:cut] for cut in (20, 150, 200)]),
    (
        "more after the value",
        [json.dumps(event(number)).encode() + end for number, end in ((1, b" {}"), (100, b" 'a'"))],
    ),
    ("a place in malformed JSON", [b'{"Age" 4}', b'{"Age" : 4, "Tenure" 5}']),
    ("bytes that are not UTF-8", [b'{"Gender": "' + bytes([number]) * number + b'"}' for number in (0xE9, 0xFF)]),
    ("a time", [event(1, event_timestamp=f"200{year}-01-01T00:00:0{year}Z") for year in range(3)]),
    (
        "the first bytes of wide characters",
        [json.dumps(event(1)).encode("utf-16-be"), ' {"Age": 1}'.encode("utf-16-be")],
    ),
    ("white space", [b" ", b"   "]),
]


@pytest.mark.slow
@pytest.mark.parametrize("values", [values for _, values in VARIANTS], ids=[name for name, _ in VARIANTS])
def test_reasons_that_vary_in_one_part_are_of_one_kind(stream: Stream, values: list[dict[str, object] | bytes]) -> None:
    stream.send(values, partition=0)
    stream.stream()

    (kind,) = dead_letter_events.count_kinds(stream.connection, DeadLetterFilter())

    assert kind.count == len(values)
    reasons = {
        dead_letter.reason for dead_letter in dead_letter_events.find(stream.connection, DeadLetterFilter(), limit=9)
    }
    assert len(reasons) == len(values), reasons
    assert "…" in kind.reason


def test_reasons_of_different_kinds_are_separate_and_name_what_was_expected(stream: Stream) -> None:
    stream.send(
        [
            event(1, Age=7),
            event(1, CreditScore=1),
            {"timestamp": 1, "data": event(1, Age=7)},
            b"",
            None,
            b'{"Age": NaN}',
            b'{"Age": Infinity}',
            json.dumps(event(1)).encode("utf-16-le"),
            b"\0\0\0\0\1",
        ],
        partition=0,
    )
    stream.stream()

    kinds = {kind.reason for kind in dead_letter_events.count_kinds(stream.connection, DeadLetterFilter())}

    assert len(kinds) == 9
    assert "Age: expected a number from 18 to 120 or null, got …" in kinds
    assert "Age in data: expected a number from 18 to 120 or null, got …" in kinds
    assert "NaN at byte … is not JSON. Send null where there is no number." in kinds


@pytest.mark.slow
def test_a_dead_letter_in_an_envelope_without_timestamp_is_retried_as_its_event(stream: Stream) -> None:
    dead_letter = make_dead_letter(stream, {"data": event(7)})

    corrected = retry(stream, dead_letter)
    batch = stream.stream()

    assert (batch.predictions, dead_letter_retry.count_unresolved(stream.connection, [corrected])) == (1, 0)
