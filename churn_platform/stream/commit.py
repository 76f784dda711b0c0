"""What one commit writes to PostgreSQL: predictions, dead letters, high-risk predictions and sums per hour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import psycopg
from confluent_kafka import Message
from numpy.typing import NDArray

from churn_platform.database.batch_hours import HourSums
from churn_platform.database.bulk import Column, Rows, copy_rows
from churn_platform.decoding.events import MICROSECONDS, DeadLetter, dead_letter
from churn_platform.kafka.messages import KNOWN_MILLISECONDS, UNIX_EPOCH
from churn_platform.stream.exceptions import InvariantViolation
from churn_platform.stream.scoring import ScoredEvents

HOUR_US: Final = 3600 * MICROSECONDS

_CREATE_STAGE: Final = """
    create temp table if not exists staged_predictions (
        event_id uuid, event_ref text, customer_id bigint, prediction smallint, risk_score real,
        predicted_at timestamptz, event_timestamp timestamptz, model_version integer, credit_score smallint,
        geography text, gender text, age real, tenure smallint, balance double precision, num_of_products smallint,
        has_cr_card smallint, is_active_member smallint, estimated_salary double precision, true_churn_label smallint,
        batch text, kafka_partition integer, kafka_offset bigint, timestamp_given smallint
    ) on commit delete rows
"""
_INSERT_STAGED: Final = """
    insert into churn_predictions (
        event_id, event_ref, customer_id, prediction, risk_score, predicted_at, event_timestamp, model_version,
        credit_score, geography, gender, age, tenure, balance, num_of_products, has_cr_card, is_active_member,
        estimated_salary, true_churn_label, batch, kafka_partition, kafka_offset
    )
    select
        event_id, event_ref, customer_id, prediction, risk_score, predicted_at, event_timestamp, model_version,
        credit_score, geography, gender, age, tenure, balance, num_of_products, has_cr_card, is_active_member,
        estimated_salary, true_churn_label, batch, kafka_partition, kafka_offset
    from staged_predictions order by kafka_partition, kafka_offset
    on conflict (event_id) do nothing
    returning kafka_partition, kafka_offset
"""
# An event sent twice has the same content. Kafka's own time, taken where an event had none, differs each time.
_FIND_CONFLICTS: Final = """
    select s.kafka_partition, s.kafka_offset, p.batch, p.kafka_partition, p.kafka_offset
    from staged_predictions s join churn_predictions p using (event_id)
    where (p.batch, p.kafka_partition, p.kafka_offset) is distinct from (s.batch, s.kafka_partition, s.kafka_offset)
      and (
        (s.event_ref, s.customer_id, s.credit_score, s.geography, s.gender, s.age, s.tenure, s.balance,
         s.num_of_products, s.has_cr_card, s.is_active_member, s.estimated_salary, s.true_churn_label)
        is distinct from
        (p.event_ref, p.customer_id, p.credit_score, p.geography, p.gender, p.age, p.tenure, p.balance,
         p.num_of_products, p.has_cr_card, p.is_active_member, p.estimated_salary, p.true_churn_label)
        or (s.timestamp_given = 1 and s.event_timestamp <> p.event_timestamp)
      )
"""
_ADD_HIGH_RISK: Final = """
    insert into high_risk_customers (
        event_id, batch, customer_id, risk_score, geography, gender, age, balance, detected_at
    )
    select event_id, batch, customer_id, risk_score, geography, gender, age, balance, predicted_at
    from churn_predictions where event_id = any(%s)
    on conflict (event_id) do update set batch = excluded.batch, risk_score = excluded.risk_score, reasons = null
"""
_COPY_DEAD_LETTERS: Final = """
    copy dead_letter_events (
        topic_id, kafka_partition, kafka_offset, batch, topic, reason, payload, kafka_timestamp, received_at
    ) from stdin (format binary)
"""
_DEAD_LETTER_TYPES: Final = ("text", "int4", "int8", "text", "text", "text", "bytea", "timestamptz", "timestamptz")


@dataclass(frozen=True)
class Source:
    """Where the rows of a batch come from."""

    batch: str
    topic: str
    topic_id: str


@dataclass(frozen=True)
class Written:
    """What a commit wrote. events read = predictions + dead letters + duplicates; high_risk are some of the first."""

    predictions: ScoredEvents
    dead_letters: int
    duplicates: int
    high_risk: int
    hours: list[HourSums]


def write_rows(
    connection: psycopg.Connection,
    source: Source,
    scored: ScoredEvents,
    rows: Rows,
    dead_letters: Sequence[DeadLetter],
    messages: Sequence[Message],
    *,
    high_risk_threshold: float,
) -> Written:
    """Write the rows of a commit into the open transaction.

    An event whose id is stored already is a duplicate when its content is the same, and a dead letter otherwise.

    Args:
        scored: the valid events.
        rows: of churn_predictions, as prediction_rows() makes them of these.
        dead_letters: the others.
        messages: what both were read from; an event that turns into a dead letter here takes its payload from there.
        high_risk_threshold: risk score from which a prediction is high risk.

    Raises:
        InvariantViolation: the counts of what was written do not add up to what was read.
    """
    kept, conflicts = _write_predictions(connection, scored, rows)
    letters = [*dead_letters, *_conflict_letters(conflicts, messages)]
    written_letters = _write_dead_letters(connection, source, letters) if letters else 0
    high_risk = _write_high_risk(connection, kept, high_risk_threshold)
    duplicates = len(scored) - len(kept) - len(conflicts)
    read = len(scored) + len(dead_letters)
    if len(kept) + written_letters + duplicates != read:
        raise InvariantViolation(
            f"Batch {source.batch}: {read} events were read, but {len(kept)} predictions, {written_letters} dead "
            f"letters and {duplicates} duplicates were written. The commit is undone; please report this as a bug."
        )
    return Written(
        predictions=kept,
        dead_letters=written_letters,
        duplicates=duplicates,
        high_risk=high_risk,
        hours=hour_sums(kept, high_risk_threshold),
    )


def prediction_rows(source: Source, scored: ScoredEvents) -> Rows:
    """The rows of churn_predictions, made before the transaction that writes them begins."""
    return Rows.of(_prediction_columns(source, scored))


def _prediction_columns(source: Source, scored: ScoredEvents) -> dict[str, Column]:
    events, count = scored.events, len(scored)
    customers = events.customers
    unreferenced = np.array([ref is None for ref in events.event_ref.tolist()], np.bool_)
    references = (
        np.zeros(count, "S1")
        if unreferenced.all()
        else np.array([(ref or "").encode() for ref in events.event_ref], np.bytes_)
    )
    label = events.true_churn_label
    age = customers["Age"]
    return {
        "event_id": Column("uuid", events.event_id),
        "event_ref": Column("text", references, null=unreferenced),
        "customer_id": Column("bigint", events.customer_id),
        "prediction": Column("smallint", scored.prediction),
        "risk_score": Column("real", scored.risk_score),
        "predicted_at": Column("timestamptz", np.full(count, scored.predicted_at, np.int64)),
        "event_timestamp": Column("timestamptz", events.event_timestamp),
        "model_version": Column("integer", np.full(count, scored.model_version, np.int32)),
        "credit_score": Column("smallint", customers["CreditScore"]),
        "geography": Column("text", customers["Geography"].astype(np.bytes_)),
        "gender": Column("text", customers["Gender"].astype(np.bytes_)),
        "age": Column("real", age, null=np.isnan(age)),
        "tenure": Column("smallint", customers["Tenure"]),
        "balance": Column("double precision", customers["Balance"]),
        "num_of_products": Column("smallint", customers["NumOfProducts"]),
        "has_cr_card": Column("smallint", customers["HasCrCard"]),
        "is_active_member": Column("smallint", customers["IsActiveMember"]),
        "estimated_salary": Column("double precision", customers["EstimatedSalary"]),
        "true_churn_label": Column("smallint", label, null=label < 0),
        "batch": Column("text", np.full(count, np.bytes_(source.batch.encode()))),
        "kafka_partition": Column("integer", events.kafka_partition),
        "kafka_offset": Column("bigint", events.kafka_offset),
    }


def _write_predictions(
    connection: psycopg.Connection, scored: ScoredEvents, rows: Rows
) -> tuple[ScoredEvents, dict[tuple[int, int], str]]:
    """The events that became rows, and the reason for each whose id is taken by another content, by its position."""
    if not len(scored):
        return scored, {}
    if _copied_at_once(connection, rows):
        return scored, {}
    with connection.cursor() as cursor:
        given = Column("smallint", scored.events.timestamp_given.astype(np.int16))
        cursor.execute(_CREATE_STAGE)
        copy_rows(cursor, "staged_predictions", Rows.of({**rows.columns, "timestamp_given": given}))
        inserted = set(cursor.execute(_INSERT_STAGED).fetchall())
        conflicts = {
            (partition, offset): (
                f"event_id is taken by an event with other content: batch {batch}, Kafka partition {other_partition}, "
                f"offset {other_offset}"
            )
            for partition, offset, batch, other_partition, other_offset in cursor.execute(_FIND_CONFLICTS)
        }
        cursor.execute("truncate staged_predictions")
    positions = zip(scored.events.kafka_partition.tolist(), scored.events.kafka_offset.tolist(), strict=True)
    return scored.select(np.fromiter((p in inserted for p in positions), np.bool_, len(scored))), conflicts


def _copied_at_once(connection: psycopg.Connection, rows: Rows) -> bool:
    """Whether all rows were copied; False, and none was, when an id is there already or comes twice."""
    try:
        with connection.transaction(), connection.cursor() as cursor:
            copy_rows(cursor, "churn_predictions", rows)
    except psycopg.errors.UniqueViolation:
        return False
    return True


def _conflict_letters(conflicts: Mapping[tuple[int, int], str], messages: Sequence[Message]) -> list[DeadLetter]:
    if not conflicts:
        return []
    by_position = {(message.partition(), message.offset()): message for message in messages}
    return [dead_letter(by_position[position], reason) for position, reason in conflicts.items()]


def _write_dead_letters(connection: psycopg.Connection, source: Source, letters: Sequence[DeadLetter]) -> int:
    """Copied row by row: payloads of megabytes need not fit into one statement."""
    received = datetime.now(UTC)
    with connection.cursor() as cursor:
        with cursor.copy(_COPY_DEAD_LETTERS) as copy:
            copy.set_types(_DEAD_LETTER_TYPES)
            for letter in letters:
                copy.write_row(
                    (
                        source.topic_id,
                        letter.kafka_partition,
                        letter.kafka_offset,
                        source.batch,
                        source.topic,
                        letter.reason,
                        letter.payload,
                        _moment(letter.kafka_timestamp_ms),
                        received,
                    )
                )
        return cursor.rowcount


def _moment(milliseconds: int | None) -> datetime | None:
    """Kafka's timestamp, where it is one that PostgreSQL and Python know."""
    if milliseconds is None or milliseconds not in KNOWN_MILLISECONDS:
        return None
    return UNIX_EPOCH + timedelta(milliseconds=milliseconds)


def _write_high_risk(connection: psycopg.Connection, scored: ScoredEvents, threshold: float) -> int:
    """Rows without reasons; how many. The reasons follow: see explaining.py."""
    risky = _at_least(scored.risk_score, threshold)
    if risky.any():
        connection.execute(_ADD_HIGH_RISK, (uuids(scored.events.event_id[risky]),))
    return int(risky.sum())


def _at_least(risk: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Compared as PostgreSQL does, in double precision: 0.7 itself is no single precision number."""
    return risk.astype(np.float64) >= threshold


def uuids(event_ids: NDArray[np.void]) -> list[str]:
    """The ids as text, from 16 raw bytes each."""
    return [f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}" for h in (i.hex() for i in event_ids.tolist())]


def hour_sums(scored: ScoredEvents, high_risk_threshold: float) -> list[HourSums]:
    """Sums over the predictions of each hour (UTC) of the event, by hour."""
    if not len(scored):
        return []
    customers = scored.events.customers
    hour_numbers, index = np.unique(scored.events.event_timestamp // HOUR_US, return_inverse=True)
    age = customers["Age"].astype(np.float64)
    age_known = ~np.isnan(age)

    def total(weights: NDArray[np.generic]) -> list[float]:
        sums: list[float] = np.bincount(index, weights.astype(np.float64), minlength=len(hour_numbers)).tolist()
        return sums

    columns = zip(
        hour_numbers.tolist(),
        np.bincount(index, minlength=len(hour_numbers)).tolist(),
        total(scored.prediction),
        total(scored.risk_score),
        total(_at_least(scored.risk_score, high_risk_threshold)),
        total(age_known),
        total(np.where(age_known, age, 0)),
        total(customers["Balance"]),
        total(customers["Tenure"]),
        strict=True,
    )
    return [
        HourSums(
            hour_timestamp=datetime.fromtimestamp(hour * 3600, UTC),
            total_predictions=count,
            churn_count=int(churn),
            risk_sum=risk,
            high_risk_count=int(high_risk),
            age_count=int(ages),
            age_sum=age_sum,
            balance_sum=balance,
            tenure_sum=tenure,
        )
        for hour, count, churn, risk, high_risk, ages, age_sum, balance, tenure in columns
    ]
