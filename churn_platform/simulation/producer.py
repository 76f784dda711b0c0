"""The producer of customer events: rows of the customers file, at a given rate, with faults mixed in on request."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uuid_utils

from churn_platform.environments import created_topics
from churn_platform.kafka import clients
from churn_platform.kafka.sending import SLICE_SECONDS, Sender
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.config import StreamConfig

if TYPE_CHECKING:
    import pandas as pd

LATE_BY: Final = timedelta(hours=26)  # at most: late events also belong to the day before
SENT_AT_ONCE: Final = 1000  # between two checks for errors and for the end

Value = str | int | float | None
Row = Mapping[str, Value]


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


def rows_of(customers: "pd.DataFrame", schema: CustomerSchema) -> list[Row]:
    """Return the rows to make events from: the customers who can be scored, missing values as None.

    They have the fields of an event, and the target, which becomes the label of the event.
    """
    required = [name for name in schema.event_fields if not schema.by_name[name].scored_if_missing]
    known = customers.dropna(subset=required)
    wanted = [name for name in (*schema.event_fields, schema.target) if name in known]
    values = [_json_values(known[name], schema.by_name[name]) for name in wanted]
    return [dict(zip(wanted, row, strict=True)) for row in zip(*values, strict=True)]


def _json_values(values: "pd.Series[Any]", column: Column) -> list[Value]:
    """Return the values of a column as an event has them."""
    if column.kind == "date":
        values = values.dt.strftime("%Y-%m-%d")
    elif column.kind in ("whole", "flag"):
        values = values.astype("Int64")  # a column with missing values has floats
    given = zip(values.tolist(), values.isna().tolist(), strict=True)
    return [None if is_missing else value for value, is_missing in given]


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
        rows: customers, as `rows_of` returns them.
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
        raise ValueError(
            "There is no customer to make events from: no row of the file has every value that scoring needs."
        )
    if count is None and duration is None and until is None:
        raise ValueError(
            "Sending would never end: give a number of events (count), seconds (duration) or a condition (until)."
        )
    created_topics.create_missing(clients.admin(config.kafka.client), config)
    sender = Sender(config.kafka.client, config.events_topic)
    produced, started = Produced(), time.monotonic()
    chance = random.Random(seed)  # noqa: S311  a choice of samples, no secret
    events = _events(rows, config.schema, mix, chance, produced.kinds)
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


def customer_event(row: Row, schema: CustomerSchema, *, moment: datetime) -> dict[str, Value]:
    """Return an event of this customer: the row's fields, a new UUIDv7, the time, and the label if it is known."""
    event: dict[str, Value] = {name: row[name] for name in schema.event_fields if name in row}
    event["event_id"] = str(uuid_utils.uuid7())
    event["event_timestamp"] = moment.isoformat(timespec="microseconds")
    if row.get(schema.target) is not None:
        event["true_churn_label"] = row[schema.target]
    return event


def wrong_values(schema: CustomerSchema) -> list[tuple[str, Value]]:
    """Return fields of an event with values that make it a dead letter: mistakes that producers make.

    A schema without suitable columns has fewer of them. An event time of long ago is always among them.
    """
    columns = [schema.by_name[name] for name in schema.inputs]
    # A column that training rejects rows for is more likely to be missing than one that the file always has.
    required = sorted(
        (column for column in columns if not column.scored_if_missing), key=lambda column: column.missing != "drop"
    )
    closed = [column for column in columns if column.kind == "category" and column.unknown == "refuse"]
    numbers = [column for column in columns if column.is_number]
    dates = [column for column in columns if column.kind == "date"]
    faults: list[tuple[str, Value]] = []
    faults += [(column.name, None) for column in required[:1]]
    faults += [(column.name, max(column.categories, key=len) + "?") for column in closed[:1]]
    faults += [
        (column.name, column.minimum - 1)
        for column in numbers
        if column.kind != "flag" and isinstance(column.minimum, int | float)
    ]
    faults += [(column.name, "many") for column in numbers[:1]]
    faults += [(column.name, "yesterday") for column in dates[:1]]
    return [*faults, ("event_timestamp", "2015-01-01T00:00:00Z")]


def _events(
    rows: Sequence[Row], schema: CustomerSchema, mix: Mix, chance: random.Random, kinds: Counter[str]
) -> Iterator[tuple[str, bytes]]:
    """Generate keys and values of events without end; `kinds` counts the faults among them."""
    encode = msgspec.json.encode
    faults = wrong_values(schema)
    last: tuple[str, bytes] | None = None
    while True:
        draw = chance.random()
        if draw < mix.duplicates and last is not None:
            kinds["duplicates"] += 1
            yield last
            continue
        row = chance.choice(rows)
        key = str(row[schema.id])
        if mix.duplicates <= draw < mix.duplicates + mix.bad:
            kinds["bad"] += 1
            yield key, _bad_event(customer_event(row, schema, moment=datetime.now(UTC)), faults, chance)
            continue
        moment = datetime.now(UTC)
        if mix.duplicates + mix.bad <= draw < mix.duplicates + mix.bad + mix.late:
            kinds["late"] += 1
            moment -= LATE_BY * chance.random()
        last = key, encode(customer_event(row, schema, moment=moment))
        yield last


def _bad_event(event: dict[str, Value], faults: Sequence[tuple[str, Value]], chance: random.Random) -> bytes:
    """Return an event that must become a dead letter: with one of the faults, or as truncated JSON."""
    choice = chance.randrange(len(faults) + 1)
    if choice < len(faults):
        return msgspec.json.encode({**event, faults[choice][0]: faults[choice][1]})
    encoded = msgspec.json.encode(event)
    return encoded[: len(encoded) // 2]
