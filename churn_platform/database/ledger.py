"""The stream's ledger: what a commit changes in several tables at once.

The ledger is the source of truth about what was read. Each of its tables has its own module (stream_positions,
stream_batches, batch_hours, ...), which also holds its part of the one statement that a commit executes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import class_row

from churn_platform.database import (
    batch_hours,
    challengers,
    churn_predictions,
    dead_letter_events,
    erased_customers,
    high_risk_customers,
    model_versions,
    stream_batches,
    stream_layouts,
    stream_pauses,
    stream_positions,
)
from churn_platform.database.batch_hours import HourSums
from churn_platform.database.bulk import BinaryArray, Column, array, encode_array
from churn_platform.database.exceptions import LedgerConflictError
from churn_platform.database.prediction_columns import PredictionTable, prediction_table
from churn_platform.database.stream_positions import LastRecord
from churn_platform.lanes import Lane
from churn_platform.schema.customer_schema import CustomerSchema


@dataclass(frozen=True, kw_only=True)
class Advance:
    """What one commit records. `starts` and `ends` are the positions before and after it, by Kafka partition.

    `last_records` has the partitions from which the commit has events. `schema` is what the events were decoded with;
    customer_schemas has it. `erasures` is the version of the list of erased customers that they were decoded
    with. `lanes` is the number of lanes of the batch.
    """

    batch: str
    lanes: int
    topic_id: str
    starts: Mapping[int, int]
    ends: Mapping[int, int]
    last_records: Mapping[int, LastRecord]
    predictions: int
    dead_letters: int
    duplicates: int
    erased: int
    erasures: int
    opened: datetime | None
    accepts_from: datetime | None
    accepts_until: datetime | None
    model_version: int | None
    hours: Sequence[HourSums]
    schema: CustomerSchema

    @property
    def events(self) -> int:
        """Events read by this commit."""
        return self.predictions + self.dead_letters + self.duplicates + self.erased


@dataclass(frozen=True)
class Heartbeat:
    """What a streaming run checks regularly.

    Attributes:
        champion: version of the champion; None if there is none.
        canary: number of the active canary; None if there is none.
        paused: whether an operator has paused the stream.
        lanes_changed: whether another number of lanes is wanted than the run's.
    """

    champion: int | None
    canary: int | None
    paused: bool
    lanes_changed: bool


# One statement for all tables, so that a commit of a few rows takes one round trip and is a transaction by itself. Each
# part changes its own table, in the order in which its count is needed. require_advanced() fails if another run has
# moved a position, or if the batch is closed.
_ADVANCE: Final = sql.SQL("""
    with {predictions}, {high_risk}, {move_positions}, {extend_ranges}, {add_counts}, {resolve_dead_letters}, {hours}
    select
        {champion} as champion,
        {canary} as canary,
        {is_paused} as paused,
        {lanes_changed} as lanes_changed,
        require_advanced(
            (select count(*) from positions), cardinality(%(partitions)s::integer[]),
            (select count(*) from ranges), (select count(*) from ranged),
            (select count(*) from batches)
        ),
        {require_erasures}
""")
# SQLSTATE of require_advanced(), in a class that PostgreSQL leaves to its users.
CONFLICT: Final = "CH001"
_NAMED: Final = re.compile(r"%\(([^)]+)\)s")
_HEARTBEAT: Final = (
    sql.SQL(
        "select {champion} as champion, {canary} as canary, {is_paused} as paused, {lanes_changed} as lanes_changed"
    )
    .format(
        champion=sql.SQL(model_versions.CHAMPION),
        canary=sql.SQL(challengers.CANARY),
        is_paused=sql.SQL(stream_pauses.IS_PAUSED),
        lanes_changed=sql.SQL(stream_layouts.IS_CHANGED),
    )
    .as_bytes(None)
)


def heartbeat(connection: psycopg.Connection, topic: str, *, lanes: int) -> Heartbeat:
    """Renew the lease of an idle run, and return what it has to know.

    Args:
        connection: holds the lock.
        topic: name of the events topic.
        lanes: number of lanes of the run's batch.
    """
    with connection.cursor(row_factory=class_row(Heartbeat)) as cursor:
        found = cursor.execute(_HEARTBEAT, {"topic": topic, "lanes": lanes}).fetchone()
    if found is None:
        raise RuntimeError("A select without a table returned no row; PostgreSQL always returns one.")
    return found


def advance(
    connection: psycopg.Connection,
    step: Advance,
    *,
    rows: BinaryArray | None,
    risky: NDArray[np.void],
    threshold: float,
) -> Heartbeat:
    """Record a commit, in the open transaction or as a transaction by itself. Return what a heartbeat returns.

    Args:
        connection: of the session that holds the stream's lock.
        step: what the commit records.
        rows: the predictions to insert, from given_rows(); None: those that there are were written before, in the open
            transaction.
        risky: if `rows` is None, the ids of the high-risk ones, shape (n,); else they are found among the rows.
        threshold: risk score from which a prediction is high risk.

    Raises:
        LedgerConflictError: another run has moved a position or closed the batch. Nothing of the statement was written.
        ErasuresChangedError: a customer was erased since the events were decoded. Nothing was written.
        KnownEventError: the id of a row is stored already or occurs twice. Nothing was written.
        TableChangedError: the rows are not of the table's present type. Nothing was written.
    """
    partitions = sorted(step.ends)
    records = [step.last_records.get(partition) for partition in partitions]
    arguments: dict[str, object] = {
        "batch": step.batch,
        "lanes": step.lanes,
        "topic_id": step.topic_id,
        "partitions": array("integer", partitions),
        "starts": array("bigint", [step.starts[partition] for partition in partitions]),
        "ends": array("bigint", [step.ends[partition] for partition in partitions]),
        "last_offsets": array("bigint", [None if record is None else record.offset for record in records]),
        "last_digests": array("bytea", [None if record is None else record.digest for record in records]),
        "leader_epochs": array("integer", [None if record is None else record.leader_epoch for record in records]),
        "opened": step.opened,
        "accepts_from": step.accepts_from,
        "accepts_until": step.accepts_until,
        "model_version": step.model_version,
        "schema_fingerprint": step.schema.fingerprint,
        "events": step.events,
        "predictions": step.predictions,
        "dead_letters": step.dead_letters,
        "duplicates": step.duplicates,
        "erased": step.erased,
        "erasures": step.erasures,
        "high_risk_threshold": threshold,
        **batch_hours.arguments(step.schema, step.hours),
        **({"risky": encode_array(Column("uuid", risky))} if rows is None else {"rows": rows}),
    }
    statement, names = _statement(prediction_table(step.schema), inserts=rows is not None)
    try:
        cursor = psycopg.RawCursor(connection).execute(statement, [arguments[name] for name in names], prepare=True)
        found = cursor.fetchone()
    except psycopg.errors.UniqueViolation as error:
        raise churn_predictions.known_event(error) from None
    except psycopg.errors.DatatypeMismatch:
        raise churn_predictions.table_changed() from None
    except psycopg.Error as error:
        if error.sqlstate == erased_customers.OTHER_ERASURES:
            raise erased_customers.ErasuresChangedError from None
        if error.sqlstate != CONFLICT:
            raise
        raise LedgerConflictError(
            f"Batch {step.batch}: {error.diag.message_primary}. Another run has taken over the stream; this commit is "
            f"rolled back and nothing is lost."
        ) from None
    if found is None:
        raise RuntimeError("A select without a table returned no row; PostgreSQL always returns one.")
    return Heartbeat(champion=found[0], canary=found[1], paused=found[2], lanes_changed=found[3])


@cache
def _statement(table: PredictionTable, *, inserts: bool) -> tuple[bytes, tuple[str, ...]]:
    """Return the statement of a commit with numbered arguments, and their names in this order.

    psycopg numbers named arguments again each time when a statement is as long as this one, which takes 0.3 ms.
    """
    named = _ADVANCE.format(
        predictions=churn_predictions.insert_given(table) if inserts else sql.SQL(churn_predictions.FIND_COPIED),
        high_risk=high_risk_customers.add_inserted(table),
        move_positions=sql.SQL(stream_positions.MOVE),
        extend_ranges=sql.SQL(stream_batches.EXTEND_RANGES),
        add_counts=sql.SQL(stream_batches.ADD_COUNTS),
        resolve_dead_letters=sql.SQL(dead_letter_events.RESOLVE_SCORED),
        hours=batch_hours.add_parts(table.schema),
        champion=sql.SQL(model_versions.CHAMPION),
        canary=sql.SQL(challengers.CANARY),
        is_paused=sql.SQL(stream_pauses.IS_PAUSED_BY_ID),
        lanes_changed=sql.SQL(stream_layouts.IS_CHANGED_BY_ID),
        require_erasures=sql.SQL(erased_customers.REQUIRE_VERSION),
    ).as_string(None)
    names = tuple(dict.fromkeys(_NAMED.findall(named)))
    numbers = {name: f"${number}" for number, name in enumerate(names, start=1)}
    return _NAMED.sub(lambda found: numbers[found[1]], named).encode(), names


def close_batch(connection: psycopg.Connection, batch: str, *, topic_id: str, lane: Lane) -> None:
    """Close a batch of this lane whose predictions are all published. After that it can only be replayed."""
    with connection.transaction():
        stream_batches.close_if_open(connection, batch)
        stream_positions.record_published(connection, topic_id, lane=lane)


def skip(
    connection: psycopg.Connection, *, topic_id: str, kafka_partition: int, position: int, end: int, reason: str
) -> bool:
    """Record offsets up to `end` as skipped and continue there, if the partition is still at `position`.

    Batches that a dead run left open are closed, because their ranges end where the skip begins. Call it in a
    transaction, in the session that holds the stream's lock.

    Returns:
        False, and nothing has changed, if the partition is no longer at `position`.
    """
    skipped = stream_positions.skip_to(
        connection, topic_id=topic_id, kafka_partition=kafka_partition, position=position, end=end, reason=reason
    )
    if skipped:
        stream_batches.close_open_batches(connection)
    return skipped
