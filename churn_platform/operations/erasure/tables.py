"""The rows about one customer in the platform's tables: finding them, and erasing them in one transaction.

Whatever the rows were counted in is corrected in the same transaction: batches, hours, summaries. So every sum is true
before it and after it, and an interrupted erasure has erased all rows or none.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final

import psycopg
from psycopg import sql

from churn_platform.alerts.messages import digest_payload
from churn_platform.database import (
    alert_outbox,
    batch_hours,
    churn_predictions,
    customer_rows,
    customer_summary,
    dead_letter_events,
    erased_customers,
    erasures,
    prediction_summary,
    replaced_predictions,
    spark_staging,
    stored_outcomes,
    stream_batches,
    summary_changes,
    summary_state,
    worker_positions,
)
from churn_platform.database.customer_rows import Row
from churn_platform.decoding.named_customers import named_customers
from churn_platform.environments.config import CLOCK_TOLERANCE
from churn_platform.operations.exceptions import ErasureError
from churn_platform.schema.customer_schema import CustomerSchema

# A replay or a verification of millions of events holds off erasures for longer. While an erasure waits, it holds off
# the worker in turn.
LOCK_SECONDS: Final = 30
STATEMENT_SECONDS: Final = 3_600
_ROWS: Final = "erased_predictions"
_REPLACED_ROWS: Final = "erased_replaced_predictions"


@dataclass(frozen=True)
class ArchivedRows:
    """Archived predictions of the customer.

    Attributes:
        columns: names of the columns of churn_predictions that the files have.
        rows: values in the order of `columns`.
        files: archive file that holds some of them -> the file that holds all other rows of it.
    """

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def event_ids(self) -> list[str]:
        """Ids of the archived events."""
        place = list(self.columns).index("event_id") if self.rows else 0
        return [str(row[place]) for row in self.rows]


@dataclass(frozen=True)
class CustomerTables:
    """What the tables hold about a customer, besides the rows that customer_rows.PLACES names.

    Attributes:
        dead_letters: rows of dead_letter_events whose payload names the customer.
        refused: rows of refused_outcomes whose payload does.
        messages: rows of alert_outbox that are about the customer, and perhaps about others.
        case_ids: the customer's cases.
    """

    dead_letters: list[Row]
    refused: list[Row]
    messages: list[Row]
    case_ids: list[int]


def find(connection: psycopg.Connection, schema: CustomerSchema, customer_id: int | str) -> CustomerTables:
    """Return what the tables hold about a customer, besides the rows that customer_rows.PLACES names."""
    names = _names(schema, customer_id)
    case_ids = customer_rows.case_ids(connection, customer_id)
    return CustomerTables(
        dead_letters=customer_rows.mentioning(connection, "dead_letter_events", customer_id, names),
        refused=customer_rows.mentioning(connection, "refused_outcomes", customer_id, names),
        messages=customer_rows.messages_about(connection, case_ids),
        case_ids=case_ids,
    )


def count(
    connection: psycopg.Connection, schema: CustomerSchema, customer_id: int | str, *, event_ids: Sequence[str]
) -> dict[str, int]:
    """Return how many rows of each table are about a customer.

    Args:
        connection: to the platform's database.
        schema: of the customers.
        customer_id: of the customer.
        event_ids: archived events of the customer.
    """
    found = find(connection, schema, customer_id)
    return {
        **customer_rows.count(connection, customer_id, event_ids=event_ids),
        "dead_letter_events": len(found.dead_letters),
        "refused_outcomes": len(found.refused),
        "alert_outbox": len(found.messages),
    }


def erase(
    connection: psycopg.Connection,
    schema: CustomerSchema,
    customer_id: int | str,
    *,
    erased_by: str,
    archived: ArchivedRows,
) -> tuple[int, dict[str, int]]:
    """Add the customer to the list, and delete its rows or what they say of it, in one transaction.

    Args:
        connection: in autocommit mode.
        schema: of the customers.
        customer_id: of the customer.
        erased_by: for the audit trail.
        archived: the archived predictions, which cannot change meanwhile.

    Returns:
        The number of the erasure in the audit trail, and how many rows of each table were erased.

    Raises:
        ErasureError: a replay or a verification held off the erasure for too long. Nothing was changed.
    """
    try:
        with connection.transaction():
            connection.execute(
                "select set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
                (f"{LOCK_SECONDS}s", f"{STATEMENT_SECONDS}s"),
            )
            erased_customers.lock(connection)
            counts = _erase_rows(connection, schema, customer_id, archived)
            return erasures.begin(connection, erased_by=erased_by, counts=counts), counts
    except psycopg.errors.LockNotAvailable as error:
        raise ErasureError(
            f"Nothing was erased: another session held off erasures for {LOCK_SECONDS} s.",
            remedy="Wait until the replay of a batch or 'churn verify' has ended, and repeat the command.",
        ) from error


def _erase_rows(
    connection: psycopg.Connection, schema: CustomerSchema, customer_id: int | str, archived: ArchivedRows
) -> dict[str, int]:
    """Erase the rows. Those that commits of the stream write come last, because it waits meanwhile."""
    event_ids = archived.event_ids
    customer_rows.lock_cases(connection, customer_id)
    began = datetime.now(UTC)
    found = find(connection, schema, customer_id)
    outcomes = customer_rows.rows_of(connection, "customer_outcomes", customer_id, event_ids=event_ids)
    _erase_messages(connection, found)
    replaced_predictions.copy_of_customer(connection, customer_id, into=_REPLACED_ROWS)
    others = [each for each in customer_rows.PLACES if not each.is_of_commits and each.table != "customer_summary"]
    deleted = customer_rows.delete(connection, customer_id, others, event_ids=event_ids)
    stored_outcomes.refuse_erased(
        connection,
        [(row["topic_id"], row["kafka_partition"], row["kafka_offset"]) for row in [*outcomes, *found.refused]],
    )
    spark_staging.discard_all(connection)  # their dead letters may name the customer, too
    stream_batches.hold_commits(connection)
    erased_customers.add(connection, customer_id)
    dead_letters = _with_latest_dead_letters(connection, schema, customer_id, found, since=began - CLOCK_TOLERANCE)
    predictions = _collect_predictions(connection, customer_id, archived)
    _subtract_from_summaries(connection, schema, customer_id)
    hours = batch_hours.subtract(connection, schema, _ROWS)
    stream_batches.count_erased(
        connection, predictions=predictions, dead_letters=Counter(row["batch"] for row in dead_letters)
    )
    for file, successor in archived.files.items():
        stream_batches.replace_archive(connection, file, successor)
    dead_letter_events.delete(connection, dead_letters)
    remaining = [each for each in customer_rows.PLACES if each not in others]
    deleted |= customer_rows.delete(connection, customer_id, remaining)
    # Last, in the order of the hours: nobody else can change them now, but monitoring reads them.
    batch_hours.mark_dirty(connection, sorted(hours))
    return {
        **deleted,
        "dead_letter_events": len(dead_letters),
        "refused_outcomes": len(found.refused),
        "alert_outbox": len(found.messages),
        "archive": len(archived.rows),
    }


def _with_latest_dead_letters(
    connection: psycopg.Connection,
    schema: CustomerSchema,
    customer_id: int | str,
    found: CustomerTables,
    *,
    since: datetime,
) -> list[Row]:
    """Return the dead letters that were found, and those that commits have written since."""
    latest = customer_rows.mentioning(
        connection, "dead_letter_events", customer_id, _names(schema, customer_id), since=since
    )
    every = [*found.dead_letters, *latest]
    return list({(row["topic_id"], row["kafka_partition"], row["kafka_offset"]): row for row in every}.values())


def _names(schema: CustomerSchema, customer_id: int | str) -> Callable[[bytes], bool]:
    """Return a function that decides whether a payload names the customer."""
    return lambda payload: customer_id in named_customers(payload, schema)


def _collect_predictions(
    connection: psycopg.Connection, customer_id: int | str, archived: ArchivedRows
) -> dict[str, int]:
    """Copy the customer's predictions to a temporary table, archived ones included; return how many, by batch."""
    churn_predictions.copy_of_customer(connection, customer_id, into=_ROWS)
    if archived.rows:
        statement = sql.SQL("copy {} ({}) from stdin").format(
            sql.Identifier(_ROWS), sql.SQL(", ").join(map(sql.Identifier, archived.columns))
        )
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in archived.rows:
                copy.write_row(row)
    rows = connection.execute(
        sql.SQL("select batch, count(*) from {} group by batch").format(sql.Identifier(_ROWS))
    ).fetchall()
    return dict(rows)


def _subtract_from_summaries(connection: psycopg.Connection, schema: CustomerSchema, customer_id: int | str) -> None:
    """Subtract the predictions that the worker has added to the summaries.

    Of a batch that was replayed since then, the summaries have the rows from before the replay.
    """
    state = summary_state.get(connection)
    if state is None:
        return
    summary_changes.create(connection, schema)
    replayed = set(replaced_predictions.batches(connection))
    for rows, excluded in ((_ROWS, replayed), (_REPLACED_ROWS, set[str]())):
        batches = [batch for batch in _batches_in(connection, rows) if batch not in excluded]
        ranges = worker_positions.followed_ranges(connection, summary_state.FOLLOWER, batches)
        summary_changes.add_erased(connection, schema, ranges, rows=rows)
    summary_changes.add_erased_archived(connection, schema, rows=_ROWS)
    prediction_summary.apply_changes(connection, schema, replaced=True)
    customer_summary.subtract(connection, customer_id)


def _batches_in(connection: psycopg.Connection, rows: str) -> list[str]:
    """Return the batches of the rows of a temporary table that are not archived."""
    found = connection.execute(sql.SQL("select distinct batch from {}").format(sql.Identifier(rows)))
    batches = [batch for (batch,) in found]
    archived = {batch for batch, _ in stream_batches.archived_among(connection, batches)}
    return [batch for batch in batches if batch not in archived]


def _erase_messages(connection: psycopg.Connection, found: CustomerTables) -> None:
    """Delete messages about the customer alone, and write those about several customers again without this one."""
    gone = set(found.case_ids)
    for message in found.messages:
        payload = without_cases(message["payload"], gone)
        if payload is None:
            alert_outbox.delete(connection, [message["id"]])
        else:
            alert_outbox.replace_payload(connection, message["id"], payload)


def about_cases(message: Row, case_ids: Iterable[int]) -> Row:
    """Return a row of alert_outbox with what it says of these cases, and without the rest of a digest."""
    wanted = set(case_ids)
    cases = [each for each in message["payload"]["cases"] if each["case_id"] in wanted]
    return {**message, "payload": {"day": message["payload"]["day"], "cases": cases}}


def without_cases(payload: Mapping[str, Any], case_ids: Iterable[int]) -> Mapping[str, Any] | None:
    """Return the payload of a digest without these cases; None if no other one is left."""
    gone = set(case_ids)
    left = [each for each in payload["cases"] if each["case_id"] not in gone]
    if not left:
        return None
    cases = [
        (each["rank"], each["case_id"], each["priority"], each["text"], str(each.get("link") or "")) for each in left
    ]
    return digest_payload(date.fromisoformat(payload["day"]), cases)
