"""Producing of customer events: from rows of the customers file, at a rate, with faults mixed in when asked for."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
import uuid_utils
from confluent_kafka import KafkaError, Message, Producer

from churn_platform.decoding.events import CUSTOMER_FIELDS  # Exited goes along as the label, names do not
from churn_platform.environments import created_topics
from churn_platform.kafka import clients
from churn_platform.kafka.exceptions import SendError
from churn_platform.stream.config import StreamConfig

if TYPE_CHECKING:
    import pandas as pd

FLUSH_SECONDS: Final = 30
# Events due within this long are sent together: a sleep is no finer than that anyway.
SLICE_SECONDS: Final = 0.01
LATE_BY: Final = timedelta(hours=26)

Row = Mapping[str, str | int | float | None]


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Shares of events, each 0 to 1, that are not as they should be."""

    bad: float = 0.0
    duplicates: float = 0.0
    late: float = 0.0


@dataclass
class Produced:
    """What was sent. `sent` counts every message; the others say how many of those were of a kind."""

    sent: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def rows_of(customers: "pd.DataFrame") -> list[Row]:
    """Rows to make events from: customers whose Gender is known, nulls as None."""
    known = customers[customers["Gender"].notna()]
    wanted = [name for name in (*CUSTOMER_FIELDS, "Exited") if name in known]
    objects = known[wanted].astype(object)
    return [dict(zip(wanted, row, strict=True)) for row in objects.mask(objects.isna(), None).itertuples(index=False)]


def produce(
    config: StreamConfig,
    rows: Sequence[Row],
    *,
    count: int | None,
    rate: float | None,
    duration: float | None,
    mix: Mix = Mix(),
    seed: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
    until: Callable[[], bool] | None = None,
) -> Produced:
    """Send events made from rows picked at random, with replacement; the topic is created if it is missing.

    Args:
        rows: customers, with the fields of CUSTOMER_FIELDS and perhaps Exited.
        count: how many events; None: no limit.
        rate: events a second; None: as fast as Kafka takes them.
        duration: seconds; None: no limit.
        mix: shares of bad, duplicate and late events.
        seed: makes the choice of rows and faults repeatable; ids and times differ all the same.
        progress: called with the number of events sent so far.
        until: asked again and again; the sending ends when it says so. None: no such end.

    Raises:
        SendError: Kafka did not acknowledge an event.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        ValueError: there is no row, or nothing that ends the sending.
    """
    if not rows:
        raise ValueError("There is no customer to make events from: the file has no row with a known Gender.")
    if count is None and duration is None and until is None:
        raise ValueError("Nothing ends the sending: say how many events (count), for how long (duration), or until.")
    created_topics.create_missing(clients.admin(config.kafka.client), config)
    failures: list[KafkaError] = []
    producer = _make_producer(config)
    produced, started = Produced(), time.monotonic()
    events = _events(rows, mix, random.Random(seed), produced.kinds)  # noqa: S311  a choice of samples, no secret
    while not failures:
        elapsed = time.monotonic() - started
        if (duration is not None and elapsed >= duration) or (until is not None and until()):
            break
        due = _due(produced.sent, count=count, rate=rate, elapsed=elapsed)
        for _ in range(due):
            key, value = next(events)
            _send(producer, config.events_topic, key, value, failures)
        produced.sent += due
        producer.poll(0)
        progress(produced.sent)
        if count is not None and produced.sent >= count:
            break
        if rate is not None:
            time.sleep(SLICE_SECONDS)
    _flush(producer, failures, produced.sent)
    produced.seconds = time.monotonic() - started
    return produced


def send(
    config: StreamConfig,
    messages: Iterable[tuple[str, bytes]],
    *,
    topic: str | None = None,
    rate: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Send messages, each a key and a value, and wait until Kafka has them.

    Args:
        config: of the brokers.
        messages: keys and values.
        topic: None: the events topic.
        rate: messages a second; None: as fast as Kafka takes them.
        progress: called with the number of messages sent so far.

    Returns:
        How many were sent.

    Raises:
        SendError: Kafka did not acknowledge one; others may have been taken.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    failures: list[KafkaError] = []
    producer = _make_producer(config)
    sent, started = 0, time.monotonic()
    for key, value in messages:
        while rate is not None and sent > rate * (time.monotonic() - started):
            producer.poll(0)
            time.sleep(SLICE_SECONDS)
        if failures:
            break
        _send(producer, topic or config.events_topic, key, value, failures)
        sent += 1
        progress(sent)
    _flush(producer, failures, sent)
    return sent


def _make_producer(config: StreamConfig) -> Producer:
    return clients.producer(
        {
            **config.kafka.client,
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 1,  # events that are due together are handed over together
            "batch.size": 1_000_000,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
            "log_level": 2,  # a broker that has just started makes harmless noise; what matters is raised
        }
    )


def _flush(producer: Producer, failures: Sequence[KafkaError], sent: int) -> None:
    """Wait until everything that was sent is acknowledged."""
    unacknowledged = producer.flush(FLUSH_SECONDS)
    if failures or unacknowledged:
        first = failures[0] if failures else KafkaError(KafkaError._TIMED_OUT)
        named = clients.find_access_error(producer, first)
        raise SendError(
            f"{len(failures) + unacknowledged} of {sent} messages were not acknowledged by Kafka. "
            f"{first.str() if named is None else named.problem}",
            remedy="" if named is None else named.remedy,
        )


def _due(sent: int, *, count: int | None, rate: float | None, elapsed: float) -> int:
    """How many events are to be sent now; never more than a thousand, so that progress and errors are seen."""
    wanted = 1000 if rate is None else int(rate * elapsed) + 1 - sent
    left = wanted if count is None else count - sent
    return max(0, min(wanted, left, 1000))


def _send(producer: Producer, topic: str, key: str, value: bytes, failures: list[KafkaError]) -> None:
    """Hand a message to the producer; should Kafka refuse it later, its error goes to `failures`."""

    def acknowledged(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    while True:
        try:
            return producer.produce(topic, value, key, on_delivery=acknowledged)
        except BufferError:  # librdkafka's queue is full: wait until Kafka has taken some
            producer.poll(0.1)


def customer_event(row: Row, *, moment: datetime) -> dict[str, str | int | float | None]:
    """An event of this customer: the row's own fields, a new UUIDv7, the time, and the label where it is known."""
    event: dict[str, str | int | float | None] = {name: row[name] for name in CUSTOMER_FIELDS}
    event["event_id"] = str(uuid_utils.uuid7())
    event["event_timestamp"] = moment.isoformat(timespec="microseconds")
    if row.get("Exited") is not None:
        event["true_churn_label"] = row["Exited"]
    return event


def _events(rows: Sequence[Row], mix: Mix, chance: random.Random, kinds: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """Keys and values of events without end; `kinds` counts what was mixed in."""
    encode = msgspec.json.encode
    last: tuple[str, bytes] | None = None
    while True:
        draw = chance.random()
        if draw < mix.duplicates and last is not None:
            kinds["duplicates"] += 1
            yield last
            continue
        row = chance.choice(rows)
        key = str(row["CustomerId"])
        if mix.duplicates <= draw < mix.duplicates + mix.bad:
            kinds["bad"] += 1
            yield key, _spoiled(row, chance)
            continue
        moment = datetime.now(UTC)
        if mix.duplicates + mix.bad <= draw < mix.duplicates + mix.bad + mix.late:
            kinds["late"] += 1
            moment -= LATE_BY * chance.random()
        last = key, encode(customer_event(row, moment=moment))
        yield last


def _spoiled(row: Row, chance: random.Random) -> bytes:
    """An event that must end as a dead letter, in one of the ways that producers get it wrong."""
    event = customer_event(row, moment=datetime.now(UTC))
    faults: tuple[dict[str, str | int | float | None], ...] = (
        {"Gender": None},
        {"Geography": "Atlantis"},
        {"Age": 7},
        {"CreditScore": "good"},
        {"Balance": -1.0},
        {"event_timestamp": "2015-01-01T00:00:00Z"},
    )
    choice = chance.randrange(len(faults) + 1)
    encoded = msgspec.json.encode({**event, **faults[choice]} if choice < len(faults) else event)
    return encoded if choice < len(faults) else encoded[: len(encoded) // 2]  # cut off in the middle
