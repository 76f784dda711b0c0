"""From Kafka messages to columns and dead letters: every message becomes one or the other."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from churn_platform.decoding.event_ids import EVENT_NAMESPACE
from churn_platform.decoding.events import DeadLetter, EventColumns, EventDecoder, event_decoder
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.bank import CUSTOMER

OPENED = datetime(2026, 11, 24, 9, tzinfo=UTC)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
EVENT: dict[str, object] = {
    **CUSTOMER,
    "CustomerId": 15_700_001,
    "event_id": "01938f3e-0000-7000-8000-000000000001",
    "event_timestamp": "2026-11-24T08:59:59.250000+00:00",
}


def message(value: bytes | dict[str, object] | None, offset: int = 7, partition: int = 2) -> Message:
    """Return a message as the consumer does, sent at OPENED."""
    return Message(
        topic="customer-events",
        partition=partition,
        offset=offset,
        value=json.dumps(value).encode() if isinstance(value, dict) else value,
        timestamp=(TIMESTAMP_CREATE_TIME, round(OPENED.timestamp() * 1000)),
    )


def bank_decoder() -> EventDecoder:
    """Return the decoder of the bank's events."""
    return event_decoder(load_schema(PROJECT_ROOT / "data/bank/schema.toml"))


def decoded(*messages: Message, decoder: EventDecoder | None = None) -> tuple[EventColumns, list[DeadLetter]]:
    """Return what a decoder, the bank's by default, makes of messages."""
    return (decoder or bank_decoder()).decode(
        messages, topic_id="topic-1", accepts_from=EPOCH, accepts_until=OPENED + timedelta(minutes=6)
    )


def reason(value: bytes | dict[str, object] | None, decoder: EventDecoder | None = None) -> str:
    """Return why this value is a dead letter."""
    events, dead_letters = decoded(message(value), decoder=decoder)
    assert len(events) == 0
    assert len(dead_letters) == 1
    return dead_letters[0].reason


def test_an_event_becomes_one_entry_of_every_column() -> None:
    events, dead_letters = decoded(message({**EVENT, "true_churn_label": 1, "Surname": "ignored"}))

    assert dead_letters == []
    assert events.event_id[0].tobytes() == uuid.UUID(str(EVENT["event_id"])).bytes
    assert events.event_ref.tolist() == [None]
    assert datetime.fromtimestamp(events.event_timestamp[0] / 1e6, UTC) == datetime(
        2026, 11, 24, 8, 59, 59, 250000, UTC
    )
    assert events.customer_id.tolist() == [15_700_001]
    assert events.customers["Geography"].tolist() == ["Spain"]
    assert events.customers["EstimatedSalary"].tolist() == [90_000.25]
    assert events.true_churn_label.tolist() == [1]
    assert (events.kafka_partition.tolist(), events.kafka_offset.tolist()) == ([2], [7])


def test_a_time_with_another_offset_is_the_same_moment_in_utc() -> None:
    events, _ = decoded(
        message({**EVENT, "event_timestamp": "2026-11-24T09:59:59+01:00"}),
        message({**EVENT, "event_timestamp": "2026-11-24T08:59:59Z"}),
    )

    assert events.event_timestamp[0] == events.event_timestamp[1]


def test_a_null_age_is_kept_as_unknown() -> None:
    events, _ = decoded(message({**EVENT, "Age": None}))

    assert np.isnan(events.customers["Age"].astype(float)).all()


def test_an_id_that_is_no_uuid_maps_to_the_same_uuid_each_time_and_is_kept() -> None:
    events, _ = decoded(
        message({**EVENT, "event_id": "evt_17"}, offset=1), message({**EVENT, "event_id": "evt_17"}, offset=2)
    )

    assert {event_id.tobytes() for event_id in events.event_id} == {uuid.uuid5(EVENT_NAMESPACE, "evt_17").bytes}
    assert events.event_ref.tolist() == ["evt_17", "evt_17"]


@pytest.mark.parametrize(
    "odd",
    [
        "x" * 36,
        "0" * 36,
        "01938f3e-0000-7000-8000-00000000000\n",
        "01938f3e-0000-7000-8000-00000000000\u0660",  # a digit, but not one of these
        "01938f3e0-000-7000-8000-000000000001",
        "01938f3e 0000-7000-8000-000000000001",
        "01938f3e-0000-7000-8000-00000000 001",
    ],
)
def test_an_id_as_long_as_a_uuid_that_is_none_is_kept_and_leaves_those_beside_it_alone(odd: str) -> None:
    capitals = "01938F3E-0000-7000-8000-00000000000A"
    events, dead_letters = decoded(
        message(EVENT, offset=1),
        message({**EVENT, "event_id": odd}, offset=2),
        message({**EVENT, "event_id": capitals}, offset=3),
    )

    assert dead_letters == []
    assert [event_id.tobytes() for event_id in events.event_id] == [
        uuid.UUID(str(EVENT["event_id"])).bytes,
        uuid.uuid5(EVENT_NAMESPACE, odd).bytes,
        uuid.UUID(capitals).bytes,
    ]
    assert events.event_ref.tolist() == [None, odd, None]


def test_dead_letters_among_events_of_all_kinds_move_nothing() -> None:
    named, bare = {**EVENT, "event_id": "evt_17"}, {**CUSTOMER, "CustomerId": 15_700_002}
    events, dead_letters = decoded(
        message(b"bad", offset=1),
        message(named, offset=2),
        message({**named, "event_id": "a\0b"}, offset=3),
        message(bare, offset=4),
        message({**EVENT, "Age": "old"}, offset=5),
        message(EVENT, offset=6),
    )

    assert [dead_letter.kafka_offset for dead_letter in dead_letters] == [1, 3, 5]
    assert events.kafka_offset.tolist() == [2, 4, 6]
    assert events.event_ref.tolist() == ["evt_17", None, None]
    assert events.timestamp_given.tolist() == [True, False, True]
    assert events.customer_id.tolist() == [15_700_001, 15_700_002, 15_700_001]


def test_an_event_without_id_and_time_is_known_by_its_position_and_kafkas_time() -> None:
    events, _ = decoded(message({**CUSTOMER, "CustomerId": 15_700_001}, offset=41))

    assert events.event_id[0].tobytes() == uuid.uuid5(EVENT_NAMESPACE, "topic-1/2/41").bytes
    assert events.event_timestamp[0] == round(OPENED.timestamp() * 1e6)
    assert events.timestamp_given.tolist() == [False]


def test_an_envelope_is_unwrapped() -> None:
    events, dead_letters = decoded(message({"timestamp": "2026-11-24T09:00:00", "data": EVENT}))

    assert dead_letters == []
    assert events.customer_id.tolist() == [15_700_001]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"Gender": None}, "Gender"),
        ({"Geography": "Italy"}, "Geography"),
        ({"Age": 17}, "Age"),
        ({"CreditScore": "640"}, "CreditScore"),
        ({"CreditScore": 299}, "CreditScore"),
        ({"Balance": -0.01}, "Balance"),
        ({"HasCrCard": 2}, "HasCrCard"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "a\0b"}, "U+0000"),
        ({"event_id": "x" * 201}, "event_id"),
        ({"event_timestamp": "2026-11-24T09:00:00"}, "time zone"),
        ({"event_timestamp": "2025-12-31T23:59:59Z"}, "STREAM_EPOCH"),
        ({"event_timestamp": "2026-11-24T09:06:01Z"}, "latest that this batch takes"),
        ({"true_churn_label": 3}, "true_churn_label"),
    ],
)
def test_a_wrong_value_is_a_dead_letter_that_names_it(change: dict[str, object], expected: str) -> None:
    assert expected in reason({**EVENT, **change})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "tombstone"),
        (b"", "empty (0 bytes)"),
        (b"{", "ends too early"),
        (b"not json", "invalid"),
        (b"[1]", "object"),
        (b'{"Balance": NaN}', "nan at byte 12"),
        (b'"\xff\xfe"', "text in quotes"),
        (b'{"Extra":' + b"[" * 5_000, "nested too deeply"),
    ],
)
def test_bytes_that_are_no_event_are_a_dead_letter_with_a_reason(value: bytes | None, expected: str) -> None:
    assert expected in reason(value).lower()


def test_a_missing_field_is_named_inside_an_envelope_too() -> None:
    customer = {name: value for name, value in EVENT.items() if name != "Tenure"}

    assert "Tenure" in reason(customer)
    assert "Tenure" in reason({"timestamp": "2026-11-24T09:00:00Z", "data": customer})


def test_good_and_bad_messages_are_told_apart_and_none_is_lost() -> None:
    messages = [
        message(EVENT if number % 3 else {**EVENT, "Age": 5} if number % 2 else b"\xff", offset=number)
        for number in range(300)
    ]

    events, dead_letters = decoded(*messages)

    assert sorted([*events.kafka_offset.tolist(), *(dead_letter.kafka_offset for dead_letter in dead_letters)]) == list(
        range(300)
    )
    assert len(dead_letters) == 100
    assert all(dead_letter.payload is not None for dead_letter in dead_letters)


GOOD = json.dumps(EVENT).encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"Age": 40} x', ("CustomerId is missing.", "found: Age.", "ends before byte 12, more follows: 'x'")),
        (
            b'{"CreditScore": 640.0, "Age": 40} // note',
            ("CreditScore: expected a whole number", ", got 640.0.", "more follows: '// note'"),
        ),
        (
            json.dumps({"timestamp": 1, "data": {**EVENT, "Age": 17}}).encode() + b"{}",
            ("After the event, which ends before byte", "more follows: '{}'"),
        ),
        (
            b'{"CreditScore": 1.5, "note": "\xff"}',
            ("CreditScore: expected", ", got 1.5.", "Not UTF-8: byte 30 is 0xff"),
        ),
        (
            b'{"CreditScore": 7, "CreditScore": 8, "x": {"y": [1, {}]}} {',
            ("got 2 times (each has to be right): 7, 8.",),
        ),
        (b'{"Age": 17, "Age": 4x}', ("Not JSON: expected ',' or '}' at byte 20",)),
    ],
)
def test_a_wrong_field_is_named_with_its_value_though_what_follows_is_malformed(
    value: bytes, expected: tuple[str, ...]
) -> None:
    for part in expected:
        assert part in reason(value)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-16-be", "UTF-16-BE"), ("utf-16-le", "UTF-16-LE"), ("utf-32-be", "UTF-32-BE"), ("utf-32-le", "UTF-32-LE")],
)
@pytest.mark.parametrize("text", [GOOD.decode(), json.dumps(EVENT, indent=1), " " + GOOD.decode(), '{"é": 1}', "["])
def test_wide_characters_without_a_byte_order_mark_are_named(text: str, encoding: str, name: str) -> None:
    assert f"The value is {name}" in reason(text.encode(encoding))


@pytest.mark.parametrize("value", [b"\0\0\0\0\1\2abc", b"\0\0\0\0{abc", b"\0\0\0{\2abc", b"\0", b"\0\0\0\1 {}"])
def test_a_schema_registrys_message_is_not_taken_for_wide_characters(value: bytes) -> None:
    assert "Avro" in reason(value)


def test_an_envelope_without_its_timestamp_is_called_that() -> None:
    assert "timestamp is missing beside data" in reason({"data": EVENT})
    assert "Tenure is missing" in reason({**{k: v for k, v in EVENT.items() if k != "Tenure"}, "data": {}})
