"""The producer of customer events: rows of the customers file, at a given rate, with faults mixed in on request."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
import uuid_utils

from churn_platform.decoding.events import CUSTOMER_FIELDS
from churn_platform.environments import created_topics
from churn_platform.kafka import clients
from churn_platform.kafka.sending import SLICE_SECONDS, Sender
from churn_platform.stream.config import StreamConfig

if TYPE_CHECKING:
    import pandas as pd

LATE_BY: Final = timedelta(hours=26)  # at most: late events also belong to the day before
SENT_AT_ONCE: Final = 1000  # between two checks for errors and for the end

Row = Mapping[str, str | int | float | None]


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Shares of events with a fault, each 0 to 1."""

    bad: float = 0.0
    duplicates: float = 0.0
    late: float = 0.0


@dataclass
class Produced:
    """What was sent: `sent` is the number of messages, `kinds` how many of them have a fault, by kind."""

    sent: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def rows_of(customers: "pd.DataFrame") -> list[Row]:
    """Return the rows to make events from: customers with a known Gender, nulls as None.

    Exited becomes the label of the event. Names are left out.
    """
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
    """Send events made from rows that are picked at random, with replacement. A missing topic is created.

    Args:
        config: of the stream whose events topic is used.
        rows: customers, with the fields of CUSTOMER_FIELDS and perhaps Exited.
        count: how many events; None: no limit.
        rate: events a second; None: as fast as Kafka accepts them.
        duration: seconds; None: no limit.
        mix: shares of bad, duplicate and late events.
        seed: makes the choice of rows and faults repeatable; ids and times still differ.
        progress: called with the number of events sent so far.
        until: called repeatedly; sending ends when it returns True. None: no condition.

    Raises:
        SendError: Kafka did not acknowledge an event.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        ValueError: there is no row, or sending would never end.
    """
    if not rows:
        raise ValueError("There is no customer to make events from: the file has no row with a known Gender.")
    if count is None and duration is None and until is None:
        raise ValueError(
            "Sending would never end: give a number of events (count), seconds (duration) or a condition (until)."
        )
    created_topics.create_missing(clients.admin(config.kafka.client), config)
    sender = Sender(config.kafka.client, config.events_topic)
    produced, started = Produced(), time.monotonic()
    events = _events(rows, mix, random.Random(seed), produced.kinds)  # noqa: S311  a choice of samples, no secret
    while not sender.has_failed:
        elapsed = time.monotonic() - started
        if (duration is not None and elapsed >= duration) or (until is not None and until()):
            break
        due = _due(produced.sent, count=count, rate=rate, elapsed=elapsed)
        for _ in range(due):
            sender.send(*next(events))
        produced.sent += due
        sender.poll()
        progress(produced.sent)
        if count is not None and produced.sent >= count:
            break
        if rate is not None:
            time.sleep(SLICE_SECONDS)
    sender.flush()
    produced.seconds = time.monotonic() - started
    return produced


def _due(sent: int, *, count: int | None, rate: float | None, elapsed: float) -> int:
    """Return how many events to send now."""
    wanted = SENT_AT_ONCE if rate is None else int(rate * elapsed) + 1 - sent
    left = wanted if count is None else count - sent
    return max(0, min(wanted, left, SENT_AT_ONCE))


def customer_event(row: Row, *, moment: datetime) -> dict[str, str | int | float | None]:
    """Return an event of this customer: the row's fields, a new UUIDv7, the time, and the label if it is known."""
    event: dict[str, str | int | float | None] = {name: row[name] for name in CUSTOMER_FIELDS}
    event["event_id"] = str(uuid_utils.uuid7())
    event["event_timestamp"] = moment.isoformat(timespec="microseconds")
    if row.get("Exited") is not None:
        event["true_churn_label"] = row["Exited"]
    return event


def _events(rows: Sequence[Row], mix: Mix, chance: random.Random, kinds: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """Generate keys and values of events, forever; `kinds` counts the faults among them."""
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
            yield key, _bad_event(row, chance)
            continue
        moment = datetime.now(UTC)
        if mix.duplicates + mix.bad <= draw < mix.duplicates + mix.bad + mix.late:
            kinds["late"] += 1
            moment -= LATE_BY * chance.random()
        last = key, encode(customer_event(row, moment=moment))
        yield last


def _bad_event(row: Row, chance: random.Random) -> bytes:
    """Return an event that must become a dead letter, with one of the mistakes that producers make."""
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
    return encoded if choice < len(faults) else encoded[: len(encoded) // 2]  # truncated JSON
