"""Messages as Kafka really delivers them: each becomes a prediction, or a dead letter with a clear reason."""

import itertools
import json
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from churn_platform_tests.stream.messages import MEGABYTE, bad_values, good_values, valid, with_raw
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

DEAD_LETTERS = "select kafka_partition, kafka_offset, reason, payload from dead_letter_events"


def send(stream: Stream, *messages: Mapping[str, Any], **settings: Any) -> None:
    """Send messages, each with the arguments of Producer.produce(), and wait until Kafka has them."""
    failures: list[object] = []
    producer = Producer({**stream.config.kafka.client, "acks": "all", **settings})
    for message in messages:
        while True:
            try:
                producer.produce(
                    stream.config.events_topic,
                    on_delivery=lambda error, _: failures.append(error) if error else None,
                    **message,
                )
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0
    assert failures == []


def recreate_topic(stream: Stream, **config: str) -> None:
    """Recreate the events topic, empty, with one partition and this configuration."""
    for future in stream.admin.delete_topics([stream.config.events_topic]).values():
        future.result()
    wait_until(lambda: stream.config.events_topic not in stream.admin.list_topics(timeout=10).topics)
    topic = NewTopic(stream.config.events_topic, num_partitions=1, replication_factor=1, config=config)
    for future in stream.admin.create_topics([topic]).values():
        future.result()
    wait_until(lambda: stream.config.events_topic in stream.admin.list_topics(timeout=10).topics)


def test_every_unusual_event_is_predicted(stream: Stream) -> None:
    values = good_values()
    send(stream, *({"value": value, "partition": 0} for value in values.values()), **{"message.max.bytes": 2_000_000})

    batch = stream.stream()

    names = dict(enumerate(values))
    refused = {names[int(str(offset))]: reason for _, offset, reason, _ in stream.rows(DEAD_LETTERS)}
    assert refused == {}
    assert batch.predictions == len(values)
    assert stream.published_ids() == stream.table_ids()


@pytest.mark.slow
def test_every_wrong_message_is_kept_byte_for_byte_with_a_reason_that_names_the_error(stream: Stream) -> None:
    values = bad_values()
    send(
        stream, *({"value": value, "partition": 0} for value, _ in values.values()), **{"message.max.bytes": 2_000_000}
    )

    batch = stream.stream()

    assert batch.dead_letters == len(values)
    dead_letters = {
        int(str(offset)): (str(reason), payload) for _, offset, reason, payload in stream.rows(DEAD_LETTERS)
    }
    for offset, (name, (value, expected)) in enumerate(values.items()):
        reason, payload = dead_letters[offset]
        assert expected in reason, name
        assert reason.isprintable(), name
        assert len(reason) <= 500, name
        assert (bytes(payload) if isinstance(payload, bytes) else payload) == value, name
    stream.materialize(batch.batch)
    assert {int(str(o)): (str(r), p) for _, o, r, p in stream.rows(DEAD_LETTERS)} == dead_letters


def test_the_last_of_two_fields_with_the_same_name_counts(stream: Stream) -> None:
    stream.send([valid(Age=50)[:-1] + b', "Age": 51}'])

    stream.stream()

    assert stream.value("select age from churn_predictions") == 51


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_messages_of_nine_megabytes_are_read_where_the_topic_allows_them(stream: Stream) -> None:
    recreate_topic(stream, **{"max.message.bytes": "10485760"})
    large = 9 * MEGABYTE
    send(
        stream,
        {"value": valid(Extra="x" * large)},
        {"value": b"\x80" * large},
        {"value": valid()},
        **{"message.max.bytes": 10_485_760},
    )

    batch = stream.stream(idle_seconds=2)

    assert (batch.predictions, batch.dead_letters) == (2, 1)
    assert stream.value("select octet_length(payload) from dead_letter_events") == large
    assert stream.value("select payload = decode(repeat('80', 9000000), 'hex') from dead_letter_events") is True


def test_the_same_uuid_is_the_same_id_however_it_is_written(stream: Stream) -> None:
    sent = uuid.uuid4()
    same = event(1, event_id=str(sent))
    forms = (str(sent), str(sent).upper(), f"{{{sent}}}", sent.urn, sent.hex, f"{{{sent.hex.upper()}}}")
    stream.send([{**same, "event_id": form} for form in forms])

    batch = stream.stream()

    assert (batch.predictions, batch.duplicates) == (1, len(forms) - 1)
    assert stream.rows("select event_id, event_ref from churn_predictions") == [(sent, None)]


def test_an_id_with_other_content_is_refused_within_a_commit_and_the_reason_names_the_first(stream: Stream) -> None:
    first = event(1)
    stream.send([first, {**first, "Age": 77}, first], partition=0)

    batch = stream.stream()

    assert (batch.predictions, batch.dead_letters, batch.duplicates) == (1, 1, 1)
    assert "Kafka partition 0, offset 0" in str(stream.value("select reason from dead_letter_events"))


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_batches_are_read(stream: Stream, compression: str) -> None:
    values = [valid() for _ in range(200)] + [b"wrong"] * 20
    send(stream, *({"value": value} for value in values), **{"compression.type": compression, "linger.ms": 50})

    batch = stream.stream()

    assert (batch.predictions, batch.dead_letters) == (200, 20)


def test_keys_and_headers_are_ignored_whatever_they_hold(stream: Stream) -> None:
    headers: list[object] = [
        None,
        [("trace", b"\xff\xfe")],
        [("empty", None), ("", b"")],
        [("same", "1"), ("same", "2")],
    ]
    keys = [None, b"", b"\xff\x00", b"another customer's"]
    send(
        stream,
        *(
            {"value": valid(), "key": key, **({"headers": header} if header else {})}
            for key, header in itertools.product(keys, headers)
        ),
    )

    assert stream.stream().predictions == len(keys) * len(headers)


def test_kafkas_timestamp_counts_for_an_event_without_one_and_follows_the_same_rules(stream: Stream) -> None:
    recreate_topic(stream, **{"message.timestamp.after.max.ms": str(2**63 - 1), "retention.ms": "-1"})
    now = datetime.now(UTC)
    hour_ahead, year_ahead = now + timedelta(hours=1), now + timedelta(days=365)
    times = [datetime(2015, 1, 1, tzinfo=UTC), now, hour_ahead, year_ahead]
    milliseconds = [round(moment.timestamp() * 1000) for moment in times]
    beyond_every_calendar = [2**50, 2**62]  # microseconds instead of milliseconds, and larger
    send(
        stream,
        *(
            {"value": valid(event_timestamp=None), "timestamp": moment}
            for moment in [*milliseconds, *beyond_every_calendar]
        ),
    )
    send(stream, *({"value": valid(), "timestamp": moment} for moment in beyond_every_calendar))

    batch = stream.stream()

    assert (batch.predictions, batch.dead_letters) == (3, 5)
    reasons = [str(reason) for (reason,) in stream.rows("select reason from dead_letter_events order by kafka_offset")]
    assert "Kafka's timestamp" in reasons[0]
    assert "2015-01-01T00:00:00" in reasons[0]
    assert all("the latest that this batch takes" in reason for reason in reasons[1:3])
    assert all("microseconds or nanoseconds" in reason for reason in reasons[3:])
    kept = [moment for (moment,) in stream.rows("select kafka_timestamp from dead_letter_events order by kafka_offset")]
    assert kept[0] == times[0]
    assert kept[3:] == [None, None]


def test_the_brokers_time_counts_where_the_topic_is_configured_so(stream: Stream) -> None:
    recreate_topic(stream, **{"message.timestamp.type": "LogAppendTime"})
    before = datetime.now(UTC) - timedelta(seconds=1)
    send(stream, {"value": valid(event_timestamp=None), "timestamp": 1_420_070_400_000})

    assert stream.stream().predictions == 1
    [[moment]] = stream.rows("select event_timestamp from churn_predictions")
    assert isinstance(moment, datetime)
    assert before <= moment <= datetime.now(UTC)


@pytest.mark.slow
def test_offsets_that_compaction_removed_are_neither_events_nor_lag(stream: Stream) -> None:
    recreate_topic(
        stream,
        **{
            "cleanup.policy": "compact",
            "segment.ms": "100",
            "min.cleanable.dirty.ratio": "0.001",
            "max.compaction.lag.ms": "100",
            "min.compaction.lag.ms": "0",
            "delete.retention.ms": "0",
        },
    )
    send(stream, *({"value": valid(), "key": b"the same"} for _ in range(50)), {"value": None, "key": b"gone"})

    def kept() -> int:
        send(stream, {"value": valid(), "key": str(time.time_ns()).encode()})  # a new segment lets the old be cleaned
        fresh = stream.reread()
        return sum(message.key() == b"the same" for message in fresh)

    wait_until(lambda: kept() == 1, timeout=90, what="compaction to leave one of fifty")
    ends = stream.waiting()

    batch = stream.stream()

    assert batch.dead_letters <= 1  # the tombstone may be gone, too
    assert batch.events < ends
    assert stream.waiting() == 0
    stream.materialize(batch.batch)
    assert stream.batch(batch.batch).replays == 1


@pytest.mark.slow
def test_transactions_that_end_a_partition_or_begin_it_are_neither_events_nor_lag(stream: Stream) -> None:
    producer = Producer({**stream.config.kafka.client, "transactional.id": f"upstream of {stream.config.events_topic}"})
    producer.init_transactions(30)

    def transaction(count: int, *, partition: int, commit: bool) -> None:
        producer.begin_transaction()
        for _ in range(count):
            producer.produce(stream.config.events_topic, valid(), partition=partition)
        producer.flush(30)
        producer.commit_transaction(30) if commit else producer.abort_transaction(30)

    transaction(3, partition=0, commit=False)  # all records of partition 0 are aborted
    transaction(3, partition=1, commit=False)
    transaction(2, partition=1, commit=True)
    transaction(4, partition=2, commit=True)
    transaction(5, partition=2, commit=False)  # ends partition 2

    batch = stream.stream(idle_seconds=2.5)

    assert (batch.events, batch.predictions) == (6, 6)
    assert stream.waiting() == 0
    stream.materialize(batch.batch)
    assert stream.batch(batch.batch).predictions == 6
    stream.send([event(1)], partition=0)
    assert stream.stream().events == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ten_thousand_wrong_messages_among_a_hundred_thousand_events_are_all_found(stream: Stream) -> None:
    small = [value for value, _ in bad_values().values() if value is None or len(value) < 10_000]
    wrong = list(itertools.islice(itertools.cycle(small), 10_000))
    body = json.dumps(event(1, event_id="")).encode().replace(b'"event_id": ""', b'"event_id": "%s"')
    messages: list[dict[str, Any]] = []
    for number in range(10_000):
        messages += [{"value": body % str(uuid.UUID(int=number * 10 + each)).encode()} for each in range(10)]
        messages.append({"value": wrong[number]})
    send(stream, *messages, **{"linger.ms": 50, "compression.type": "lz4"})

    batch = stream.stream()

    assert (batch.events, batch.predictions, batch.dead_letters) == (110_000, 100_000, 10_000)
    assert stream.value("select count(*) from dead_letter_events where length(reason) > 20") == 10_000
    assert stream.value("select count(*) from churn_predictions") == 100_000
    payloads = sorted(b"" if p is None else bytes(p) for (p,) in _payloads(stream))
    assert payloads == sorted(value or b"" for value in wrong)
    assert stream.waiting() == 0


def _payloads(stream: Stream) -> list[tuple[Any, ...]]:
    return stream.connection.execute("select payload from dead_letter_events").fetchall()


def test_the_order_of_json_fields_does_not_change_the_content(stream: Stream) -> None:
    first = event(1)
    stream.send([first, dict(reversed(first.items())), with_raw("Extra", b"1")])

    batch = stream.stream()

    assert (batch.predictions, batch.duplicates) == (2, 1)
