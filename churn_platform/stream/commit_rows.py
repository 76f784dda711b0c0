"""What one commit writes to PostgreSQL: predictions, dead letters, high-risk predictions and sums per hour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import numpy as np
import psycopg
from confluent_kafka import Message
from numpy.typing import NDArray

from churn_platform.database import churn_predictions, dead_letter_events, high_risk_customers
from churn_platform.database.batch_hours import HourSums
from churn_platform.database.bulk import Column, Rows
from churn_platform.database.churn_predictions import Place
from churn_platform.database.dead_letter_events import NewDeadLetter
from churn_platform.database.prediction_columns import PredictionTable, prediction_table
from churn_platform.decoding.events import MICROSECONDS, DeadLetter, dead_letter
from churn_platform.kafka.messages import KNOWN_MILLISECONDS, UNIX_EPOCH
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.high_risk import is_high_risk
from churn_platform.stream.exceptions import InvariantViolation
from churn_platform.stream.prediction_values import uuid_text
from churn_platform.stream.scoring import ScoredEvents

HOUR_US: Final = 3600 * MICROSECONDS
NO_IDS: Final = np.empty(0, "V16")


@dataclass(frozen=True)
class Source:
    """Where the rows of a batch come from."""

    batch: str
    topic: str
    topic_id: str


@dataclass(frozen=True)
class Written:
    """What a commit wrote: events read = predictions + dead letters + duplicates + erased.

    `erased` counts events of erased customers, of which nothing is written; `high_risk` counts some predictions.
    """

    predictions: ScoredEvents
    dead_letters: int
    duplicates: int
    erased: int
    high_risk: int
    hours: list[HourSums]

    @classmethod
    def of(
        cls,
        schema: CustomerSchema,
        predictions: ScoredEvents,
        high_risk_threshold: float,
        *,
        dead_letters: int = 0,
        duplicates: int = 0,
        erased: int = 0,
    ) -> Self:
        """Return what a commit with these predictions writes."""
        return cls(
            predictions=predictions,
            dead_letters=dead_letters,
            duplicates=duplicates,
            erased=erased,
            high_risk=int(is_high_risk(predictions.risk_score, high_risk_threshold).sum()),
            hours=hour_sums(schema, predictions, high_risk_threshold),
        )


def write_rows(
    connection: psycopg.Connection,
    source: Source,
    schema: CustomerSchema,
    scored: ScoredEvents,
    rows: Rows,
    dead_letters: Sequence[DeadLetter],
    messages: Sequence[Message],
    *,
    compare: bool,
    high_risk_threshold: float,
    erased: int,
) -> Written:
    """Write predictions and dead letters of a commit into the open transaction.

    An event whose id is stored already is a duplicate if its content is the same, and a dead letter otherwise. Almost
    no commit has one, so it is tried without comparing first.

    Args:
        connection: in a transaction.
        source: where the rows come from.
        schema: that the events were decoded with.
        scored: the valid events.
        rows: their rows, from prediction_rows().
        dead_letters: the other events.
        messages: the messages of all events. An event that becomes a dead letter here gets its payload from them.
        compare: whether to compare events with those that have their ids.
        high_risk_threshold: risk score from which a prediction is high risk.
        erased: number of events that were left out, because their customers were erased.

    Raises:
        KnownEventError: an id is stored already or occurs twice, and `compare` is False. Roll back, and compare.
        InvariantViolation: what was written does not add up to what was read.
    """
    table = prediction_table(schema)
    kept, conflicts = scored, dict[Place, tuple[str, Place]]()
    if compare:
        kept, conflicts = _write_other_predictions(connection, table, scored, rows)
    elif len(scored):
        churn_predictions.insert_new(connection, rows)
    refused = [*dead_letters, *conflicting(conflicts, messages)]
    refused_count = write_dead_letters(connection, source, refused) if refused else 0
    duplicates = len(scored) - len(kept) - len(conflicts)
    read = len(scored) + len(dead_letters)
    if len(kept) + refused_count + duplicates != read:
        raise InvariantViolation(
            f"Batch {source.batch}: {read} events were read, but {len(kept)} predictions, {refused_count} dead "
            f"letters and {duplicates} duplicates were written. The commit is rolled back. Please report this as a bug."
        )
    return Written.of(
        schema, kept, high_risk_threshold, dead_letters=refused_count, duplicates=duplicates, erased=erased
    )


def _write_other_predictions(
    connection: psycopg.Connection, table: PredictionTable, scored: ScoredEvents, rows: Rows
) -> tuple[ScoredEvents, dict[Place, tuple[str, Place]]]:
    """Write the events whose id is not stored.

    Returns:
        These events; and of each other event with other content, by its place, batch and place of the stored one.
    """
    given = Column("smallint", scored.events.timestamp_given.astype(np.int16))
    inserted, conflicts = churn_predictions.insert_or_compare(connection, table, rows, timestamp_given=given)
    places = zip(scored.events.kafka_partition.tolist(), scored.events.kafka_offset.tolist(), strict=True)
    return scored.select(np.fromiter((place in inserted for place in places), np.bool_, len(scored))), conflicts


def conflicting(conflicts: Mapping[Place, tuple[str, Place]], messages: Sequence[Message]) -> list[DeadLetter]:
    """Return the events whose id belongs to an event with other content as dead letters.

    Args:
        conflicts: by the place of the event, batch and place of the one that has the id.
        messages: has the messages of these events.
    """
    if not conflicts:
        return []
    by_position = {(message.partition(), message.offset()): message for message in messages}
    return [
        dead_letter(
            by_position[position],
            f"event_id is taken by an event with other content: batch {batch}, Kafka partition {partition}, offset "
            f"{offset}",
        )
        for position, (batch, (partition, offset)) in conflicts.items()
    ]


def write_dead_letters(connection: psycopg.Connection, source: Source, dead_letters: Sequence[DeadLetter]) -> int:
    """Store dead letters in the open transaction; return how many."""
    return dead_letter_events.insert(
        connection,
        map(new_dead_letter, dead_letters),
        batch=source.batch,
        topic=source.topic,
        topic_id=source.topic_id,
    )


def new_dead_letter(each: DeadLetter) -> NewDeadLetter:
    """Return a dead letter as it is stored."""
    return NewDeadLetter(
        kafka_partition=each.kafka_partition,
        kafka_offset=each.kafka_offset,
        reason=each.reason,
        payload=each.payload,
        kafka_timestamp=_moment(each.kafka_timestamp_ms),
    )


def _moment(milliseconds: int | None) -> datetime | None:
    """Return Kafka's timestamp, if PostgreSQL and Python can represent it."""
    if milliseconds is None or milliseconds not in KNOWN_MILLISECONDS:
        return None
    return UNIX_EPOCH + timedelta(milliseconds=milliseconds)


def write_high_risk(
    connection: psycopg.Connection, schema: CustomerSchema, predictions: ScoredEvents, threshold: float
) -> None:
    """Write the high-risk ones of these predictions, without reasons, which explaining.py adds later."""
    risky = high_risk_ids(predictions, threshold)
    if len(risky):
        high_risk_customers.add(connection, prediction_table(schema), uuid_text(risky))


def high_risk_ids(predictions: ScoredEvents, threshold: float) -> NDArray[np.void]:
    """Return the event ids of the high-risk ones of these predictions, shape (n,)."""
    return predictions.events.event_id[is_high_risk(predictions.risk_score, threshold)]


def hour_sums(schema: CustomerSchema, scored: ScoredEvents, high_risk_threshold: float) -> list[HourSums]:
    """Return the sums over the predictions of each hour (UTC) of the event, by hour."""
    if not len(scored):
        return []
    hour_numbers, index = np.unique(scored.events.event_timestamp // HOUR_US, return_inverse=True)

    def total(weights: NDArray[Any]) -> list[float]:
        sums: list[float] = np.bincount(index, weights.astype(np.float64), minlength=len(hour_numbers)).tolist()
        return sums

    averages, known = {}, {}
    for column in schema.averaged:
        values = scored.events.customers[column.name].astype(np.float64)
        if column.scored_if_missing:
            is_known = ~np.isnan(values)
            known[column.column] = total(is_known)
            values = np.where(is_known, values, 0)
        averages[column.column] = total(values)
    columns = zip(
        hour_numbers.tolist(),
        np.bincount(index, minlength=len(hour_numbers)).tolist(),
        total(scored.prediction),
        total(scored.risk_score),
        total(is_high_risk(scored.risk_score, high_risk_threshold)),
        strict=True,
    )
    return [
        HourSums(
            hour_timestamp=datetime.fromtimestamp(hour * 3600, UTC),
            total_predictions=count,
            churn_count=int(churn),
            risk_sum=risk,
            high_risk_count=int(high_risk),
            averages={name: sums[place] for name, sums in averages.items()},
            known={name: int(counts[place]) for name, counts in known.items()},
        )
        for place, (hour, count, churn, risk, high_risk) in enumerate(columns)
    ]
