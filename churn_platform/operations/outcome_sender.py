"""Send one outcome, outcomes from a file, or simulated outcomes of customers who have predictions."""

import csv
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import psycopg
from confluent_kafka import TIMESTAMP_CREATE_TIME

from churn_platform.database import churn_predictions
from churn_platform.decoding.outcomes import RejectedOutcome, outcome_decoder
from churn_platform.decoding.reasons import wide_encoding
from churn_platform.environments import created_topics
from churn_platform.environments.config import CLOCK_TOLERANCE
from churn_platform.kafka import clients, sending
from churn_platform.operations.exceptions import OutcomeSourceError
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.config import StreamConfig

# The limit is for key and value together; a key is an id of at most 200 characters.
MAX_VALUE_BYTES: Final = sending.MESSAGE_BYTES - 1_000
FIRST_BYTES: Final = 8  # tell UTF-16 and UTF-32 from UTF-8

Fields = dict[str, str | int]


@dataclass(frozen=True)
class Line:
    """One outcome of a file: its line number, key and value."""

    number: int
    key: str
    value: bytes


@dataclass(frozen=True)
class WrongLine:
    """A line that the platform would reject, with the reason."""

    number: int
    reason: str


@dataclass(frozen=True)
class Simulated:
    """One simulated outcome: its key, its value, and whether the platform must reject it."""

    key: str
    value: bytes
    is_bad: bool


@dataclass(frozen=True)
class _Unsent:
    """A message as it would be read if it were sent now."""

    content: bytes

    def value(self) -> bytes | None:
        return self.content

    def partition(self) -> int | None:
        return 0

    def offset(self) -> int | None:
        return 0

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, round(datetime.now(UTC).timestamp() * 1000)


def read_file(file: Path, schema: CustomerSchema, *, accepts_from: datetime) -> tuple[list[Line], list[WrongLine]]:
    """Return the outcomes of a file that the decoder of the topic accepts, and the lines that it rejects.

    Args:
        file: JSON, one outcome a line; or CSV, if its name ends in .csv, with columns named like the fields.
        schema: of the customers.
        accepts_from: earliest time that an outcome may have.

    Raises:
        OutcomeSourceError: the file is missing or not in UTF-8, or a CSV file lacks a required column.
    """
    try:
        _require_utf8(file)
        found = list(_csv_lines(file, schema) if file.suffix.lower() == ".csv" else _json_lines(file))
    except OSError as error:
        raise OutcomeSourceError(
            f"{file} cannot be read: {error.strerror}.", remedy="Name a file of outcomes with --from."
        ) from error
    except UnicodeDecodeError as error:
        raise OutcomeSourceError(
            f"{file} is not in UTF-8: byte {error.start} is {error.object[error.start]:#04x}.",
            remedy="Save it in UTF-8.",
        ) from error
    good, wrong = [], []
    until = datetime.now(UTC) + CLOCK_TOLERANCE
    for line in found:
        if isinstance(line, WrongLine):
            wrong.append(line)
            continue
        if len(line.value) > MAX_VALUE_BYTES:
            wrong.append(
                WrongLine(
                    line.number,
                    f"The outcome has {len(line.value):,} bytes, more than the limit of {MAX_VALUE_BYTES:,} bytes.",
                )
            )
            continue
        decoded = outcome_decoder(schema).decode(_Unsent(line.value), accepts_from, until)
        if isinstance(decoded, RejectedOutcome):
            wrong.append(WrongLine(line.number, decoded.reason))
        else:
            key = decoded.customer_id if decoded.customer_id is not None else decoded.event_id
            good.append(Line(line.number, str(key), line.value))
    return good, wrong


def single(
    schema: CustomerSchema,
    *,
    customer: str | None,
    event: str | None,
    left: bool,
    at: datetime | None,
    accepts_from: datetime,
) -> Line:
    """Return one outcome that the decoder of the topic accepts.

    Args:
        schema: of the customers.
        customer: id of the customer whom it is about; None if it is about an event.
        event: id of the event that it is about.
        left: whether the customer left.
        at: when that was known, with a time zone; None: now.
        accepts_from: earliest time that an outcome may have.

    Raises:
        OutcomeSourceError: the platform would reject the outcome.
    """
    whole = schema.id_column.kind == "whole"
    fields: Fields = {
        **({} if customer is None else {schema.id: _cell(customer, whole=whole)}),
        **({} if event is None else {"event_id": event}),
        "true_churn_label": int(left),
        "outcome_timestamp": (at or datetime.now(UTC)).isoformat(),
    }
    value = msgspec.json.encode(fields)
    decoded = outcome_decoder(schema).decode(_Unsent(value), accepts_from, datetime.now(UTC) + CLOCK_TOLERANCE)
    if isinstance(decoded, RejectedOutcome):
        raise OutcomeSourceError(
            f"This outcome would be rejected: {decoded.reason}", remedy="Correct it. Nothing was sent."
        )
    return Line(1, str(customer if customer is not None else event), value)


def simulate(
    connection: psycopg.Connection,
    schema: CustomerSchema,
    *,
    days: int,
    count: int | None = None,
    bad: float = 0.0,
    seed: int | None = None,
) -> Iterator[Simulated]:
    """Return simulated outcomes of customers with a prediction: the label of their event, else drawn by their risk.

    Their time is now.

    Args:
        connection: to the platform's database.
        schema: of the customers.
        days: only customers with an event in this many last days.
        count: of this many customers, chosen at random; None for all.
        bad: share of outcomes, 0 to 1, that the platform must reject.
        seed: makes the choice and the draws repeatable.

    Raises:
        OutcomeSourceError: no customer has a prediction.
    """
    predicted = churn_predictions.latest_by_customer(connection, days=days)
    if not predicted:
        raise OutcomeSourceError(
            f"No customer has a prediction in the last {days} days, so there is no outcome to simulate.",
            remedy="Send events first ('churn produce'), or send your own outcomes with --from.",
        )
    chance = random.Random(seed)  # noqa: S311  a choice of samples, no secret
    chosen = predicted if count is None else chance.sample(predicted, min(count, len(predicted)))
    return _simulated(schema, chosen, chance, bad)


def send(
    config: StreamConfig,
    messages: Sequence[tuple[str, bytes]],
    topic: str,
    *,
    rate: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Send outcomes, each a key and a value, and wait until Kafka acknowledges them. A missing topic is created.

    Raises:
        SendError: Kafka did not acknowledge an outcome; others may have been stored.
        StreamError: the topic is missing, and the database has no table to record its creation in.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    created_topics.create_missing(clients.admin(config.kafka.client), config, topic)
    return sending.send(config.kafka.client, topic, messages, rate=rate, progress=progress)


def _simulated(
    schema: CustomerSchema,
    predicted: Sequence[tuple[int | str, float, int | None]],
    chance: random.Random,
    bad: float,
) -> Iterator[Simulated]:
    faults = _faults(schema)
    for customer, risk, label in predicted:
        churned = int(chance.random() < risk) if label is None else label
        fields: Fields = {
            schema.id: customer,
            "true_churn_label": churned,
            "outcome_timestamp": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        is_bad = chance.random() < bad
        if is_bad:
            fields |= chance.choice(faults)
        yield Simulated(str(customer), msgspec.json.encode(fields), is_bad)


def _faults(schema: CustomerSchema) -> tuple[Fields, ...]:
    """Return fields that make an outcome one that must be rejected: typical mistakes of producers."""
    return (
        {"true_churn_label": 2},
        {"true_churn_label": "left"},
        {schema.id: "15600000" if schema.id_column.kind == "whole" else 15_600_000},
        {"outcome_timestamp": "2015-01-01T00:00:00Z"},
        {"outcome_timestamp": "2099-01-01T00:00:00Z"},
        {"outcome_timestamp": "yesterday"},
    )


def _json_lines(file: Path) -> Iterator[Line]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Line(number, "", line.strip())


def _require_utf8(file: Path) -> None:
    """Refuse a file in UTF-16 or UTF-32, whose lines cannot be split at the byte of a line feed.

    Raises:
        OutcomeSourceError: the file has such an encoding; the error names it.
    """
    with file.open("rb") as content:
        start = content.read(FIRST_BYTES)
    encoding = wide_encoding(start)
    if encoding is not None:
        raise OutcomeSourceError(
            f"{file} is in {encoding} (it begins with {start.hex(' ')}), expected UTF-8.", remedy="Save it in UTF-8."
        )


def _csv_lines(file: Path, schema: CustomerSchema) -> Iterator[Line | WrongLine]:
    names = outcome_decoder(schema).fields
    whole = {"true_churn_label", *([schema.id] if schema.id_column.kind == "whole" else [])}
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text)
        if rows.fieldnames is None:  # an empty file
            return
        if "true_churn_label" not in (rows.fieldnames):
            raise OutcomeSourceError(
                f"{file} has no column true_churn_label; it has {', '.join(rows.fieldnames) or 'none'}.",
                remedy=f"Name its columns like the fields of an outcome: {', '.join(names)}.",
            )
        try:
            for row in rows:
                if None in row:
                    count, header = len(row) - 1 + len(row[None]), len(rows.fieldnames)
                    yield WrongLine(rows.line_num, f"The row has {count} values, but the header has {header} columns.")
                    continue
                fields = {name: _cell(row[name], whole=name in whole) for name in names if row.get(name)}
                yield Line(rows.line_num, "", msgspec.json.encode(fields))
        except csv.Error as error:
            raise OutcomeSourceError(
                f"{file}, after line {rows.line_num}: {error}.",
                remedy="Correct that line: each double quote needs a closing one. The lines before it were read.",
            ) from error


def _cell(text: str, *, whole: bool) -> str | int:
    """Convert a cell of whole numbers. What is not one stays text, and the decoder reports what is wrong with it."""
    digits = text.strip()
    return int(digits) if whole and digits.isascii() and digits.isdigit() and len(digits) < 20 else text
