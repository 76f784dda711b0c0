"""The tables alert_outbox and alerted_cases: messages by target, and the cases that they are about.

Only this module changes the status of a message. What is sent, and how, is in churn_platform/alerts/.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Final, Literal, TypeAlias
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from churn_platform.database import high_risk_customers
from churn_platform.database.advisory_locks import SENDER_LOCK

Kind: TypeAlias = Literal["case", "digest", "operator"]

_ADD: Final = """
    insert into alert_outbox (kind, reference, target, payload, expires_at, status, last_error)
    select %s, %s, target, %s, %s, case when %s::text is null then 'pending' else 'in_doubt' end, %s
    from unnest(%s::text[]) as t (target)
    on conflict (kind, reference, target) do nothing
"""
# Messages to operators first: they are few, and a target may have many others waiting.
_CLAIM: Final = """
    update alert_outbox set status = 'sending', attempts = attempts + 1, claimed_at = clock_timestamp(),
        claimed_by = %(sender)s
    where id = (
        select id from alert_outbox
        where status = 'pending' and target = %(target)s and kind = any(%(kinds)s) and next_attempt <= now()
          and (expires_at is null or expires_at > now())
        order by kind = 'operator' desc, next_attempt, id limit 1 for update skip locked
    )
    returning *
"""
# A sender that was thought to be dead may report late. It knows the result, so it may replace the doubt.
_SENT: Final = """
    update alert_outbox set status = 'sent', sent_at = now(), last_error = null
    where id = %(id)s and claimed_by = %(claimed_by)s and claimed_at = %(claimed_at)s
      and status in ('sending', 'in_doubt')
"""
_NOT_SENT: Final = """
    update alert_outbox set status = %(status)s, last_error = %(error)s,
        next_attempt = coalesce(%(next_attempt)s, next_attempt)
    where id = %(id)s and claimed_by = %(claimed_by)s and claimed_at = %(claimed_at)s
      and status in ('sending', 'in_doubt')
"""
# A lock that can be taken belongs to no session, so the sender of these messages is gone.
_DOUBT: Final = """
    with gone as materialized (
        select claimed_by from (select distinct claimed_by from alert_outbox where status = 'sending') as s
        where pg_try_advisory_xact_lock(%(lock)s, claimed_by)
    )
    update alert_outbox set status = 'in_doubt',
        last_error = 'The process that was sending it ended before it knew the result.'
    where status = 'sending' and claimed_by in (select claimed_by from gone)
"""
_DOUBT_OPEN: Final = """
    update alert_outbox set status = 'in_doubt',
        last_error = 'The database was restored to an earlier state; it may have been sent since.'
    where status in ('pending', 'sending')
    returning id, kind, reference, target, idempotency_key
"""
_EXPIRE: Final = """
    update alert_outbox set status = 'failed',
        last_error = concat_ws(' ', 'It is older than ALERT_MAX_AGE.', last_error)
    where status = 'pending' and expires_at <= now()
"""
_PRUNE: Final = """
    delete from alert_outbox
    where created_at < now() - make_interval(days => %s) and (status = 'sent' or dismissed_at is not null)
"""
_PRUNE_CASES: Final = "delete from alerted_cases where alerted_at < now() - make_interval(days => %s)"
_FIND: Final = """
    select * from alert_outbox
    where status = any(%(statuses)s) and (%(target)s::text is null or target = %(target)s)
      and (%(ids)s::bigint[] is null or id = any(%(ids)s)) and (%(dismissed)s or dismissed_at is null)
    order by id desc limit %(limit)s
"""
_COUNT: Final = """
    select status, count(*) from alert_outbox
    where dismissed_at is null and (%(target)s::text is null or target = %(target)s) group by status
"""
_RETRY: Final = """
    update alert_outbox set status = 'pending', attempts = 0, next_attempt = now(), expires_at = null,
        dismissed_at = null
    where id = any(%s) and status in ('in_doubt', 'failed') returning id
"""
_CONFIRM: Final = """
    update alert_outbox set status = 'sent', sent_at = now() where id = any(%s) and status = 'in_doubt'
    returning id, kind, reference
"""
_DISMISS: Final = """
    update alert_outbox set status = 'failed', dismissed_at = now()
    where id = any(%s) and status in ('in_doubt', 'failed') and dismissed_at is null returning id
"""
_UNSETTLED: Final = """
    select target, count(*) filter (where status = 'failed'), count(*) filter (where status = 'in_doubt'),
        count(*) filter (where status = 'sending')
    from alert_outbox
    where status in ('in_doubt', 'failed', 'sending') and dismissed_at is null
      and (status <> 'sending' or claimed_at < now() - make_interval(secs => %s))
    group by target order by target
"""
_ADD_CASES: Final = """
    insert into alerted_cases (day, case_id, kind, reference, event_ids, alerted_at)
    select %s, case_id, %s, reference, array(select jsonb_array_elements_text(event_ids)::uuid), %s
    from unnest(%s::bigint[], %s::text[], %s::jsonb[]) as c (case_id, reference, event_ids)
    on conflict (day, case_id) do nothing
"""


class Status(StrEnum):
    """The states of a message, in the order that it passes through them."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    IN_DOUBT = "in_doubt"
    FAILED = "failed"


@dataclass(frozen=True)
class StoredMessage:
    """A row of alert_outbox: one message to one target. The comments of the table explain the columns."""

    id: int
    kind: Kind
    reference: str
    target: str
    payload: Mapping[str, object]
    idempotency_key: UUID
    status: Status
    created_at: datetime
    expires_at: datetime | None
    attempts: int
    next_attempt: datetime
    claimed_at: datetime | None
    claimed_by: int | None
    sent_at: datetime | None
    last_error: str | None
    dismissed_at: datetime | None

    def __post_init__(self) -> None:
        """Turn the text that PostgreSQL returns into a Status."""
        object.__setattr__(self, "status", Status(self.status))

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON, with times in ISO 8601, UTC, and without the number of its sender."""
        plain = {name: value for name, value in asdict(self).items() if name != "claimed_by"}
        return {
            name: value.astimezone(UTC).isoformat()
            if isinstance(value, datetime)
            else str(value)
            if isinstance(value, UUID)
            else value
            for name, value in plain.items()
        }


@dataclass(frozen=True)
class Unsettled:
    """Messages of a target that an operator has to decide about: failed, in doubt, and being sent for too long."""

    target: str
    failed: int
    in_doubt: int
    sending: int


@dataclass(frozen=True)
class DoubtfulMessage:
    """A message that was put in doubt: what it is about, its target, and the key that its receiver may know it by."""

    id: int
    kind: Kind
    reference: str
    target: str
    idempotency_key: UUID


@dataclass(frozen=True)
class CaseEntry:
    """A case that a message is about, the message's reference, and the high-risk events of the customer."""

    case_id: int
    reference: str
    event_ids: Sequence[UUID]


def add(
    connection: psycopg.Connection,
    *,
    kind: Kind,
    reference: str,
    payload: Mapping[str, object],
    targets: Sequence[str],
    expires_at: datetime | None = None,
    doubt: str | None = None,
) -> int:
    """Write a message for each target that has none with this kind and reference yet; return how many were written.

    Args:
        connection: to the platform's database.
        kind: what the message is about.
        reference: which of these.
        payload: subject and text of the message, and its data.
        targets: names of the targets.
        expires_at: when the message is no longer sent; None: never.
        doubt: why the targets may have the message already. Then an operator decides; None: it is sent.
    """
    arguments = (kind, reference, Jsonb(dict(payload)), expires_at, doubt, doubt, list(targets))
    return connection.execute(_ADD, arguments).rowcount


def claim(connection: psycopg.Connection, *, target: str, kinds: Sequence[Kind], sender: int) -> StoredMessage | None:
    """Claim the next message of a target that is due, before it is sent; None if there is none.

    Args:
        connection: in autocommit mode, so that the claim is committed when this returns.
        target: name of the target.
        kinds: only messages of these kinds.
        sender: number from advisory_locks.lock_sender(), taken in this session.
    """
    with connection.cursor(row_factory=class_row(StoredMessage)) as cursor:
        return cursor.execute(_CLAIM, {"target": target, "kinds": list(kinds), "sender": sender}).fetchone()


def record_sent(connection: psycopg.Connection, message: StoredMessage) -> bool:
    """Record that the receiver took a claimed message, and that somebody was told about its cases.

    Returns:
        False, and nothing has changed, if an operator has meanwhile decided otherwise.
    """
    with connection.transaction():
        recorded = connection.execute(_SENT, _claim_of(message)).rowcount == 1
        if recorded:
            _mark_cases(connection, message.kind, message.reference)
        return recorded


def record_not_sent(
    connection: psycopg.Connection, message: StoredMessage, *, error: str, next_attempt: datetime
) -> bool:
    """Record that the receiver did not take a claimed message, and when to try again. Returns: see record_sent()."""
    return _record(connection, message, Status.PENDING, error, next_attempt)


def record_failed(connection: psycopg.Connection, message: StoredMessage, *, error: str) -> bool:
    """Record that the receiver did not take a claimed message and never will. Returns: see record_sent()."""
    return _record(connection, message, Status.FAILED, error)


def record_in_doubt(connection: psycopg.Connection, message: StoredMessage, *, error: str) -> bool:
    """Record that the receiver may have taken a claimed message. Returns: see record_sent()."""
    return _record(connection, message, Status.IN_DOUBT, error)


def doubt_abandoned(connection: psycopg.Connection) -> int:
    """Mark the messages whose sender is gone as in doubt; return how many.

    The session must not be that of a sender, because a session can always take its own lock.
    """
    return connection.execute(_DOUBT, {"lock": SENDER_LOCK}).rowcount


def doubt_open(connection: psycopg.Connection) -> list[DoubtfulMessage]:
    """Put all messages that are not settled in doubt: after a restore, nobody knows whether they were sent since."""
    with connection.cursor(row_factory=class_row(DoubtfulMessage)) as cursor:
        return sorted(cursor.execute(_DOUBT_OPEN).fetchall(), key=lambda message: message.id)


def expire(connection: psycopg.Connection) -> int:
    """Mark pending messages that are too old as failed; return how many."""
    return connection.execute(_EXPIRE).rowcount


def prune(connection: psycopg.Connection, *, days: int) -> None:
    """Delete messages that were sent or dismissed and written before so many days, and what they were about."""
    with connection.transaction():
        connection.execute(_PRUNE, (days,))
        connection.execute(_PRUNE_CASES, (days,))


def find(
    connection: psycopg.Connection,
    *,
    statuses: Sequence[Status],
    target: str | None = None,
    ids: Sequence[int] | None = None,
    dismissed: bool = False,
    limit: int | None = None,
) -> list[StoredMessage]:
    """Return messages, the newest first.

    Args:
        connection: to the platform's database.
        statuses: only messages with one of these.
        target: only messages to this one.
        ids: only these messages.
        dismissed: whether dismissed messages are included.
        limit: most messages; None for all.
    """
    with connection.cursor(row_factory=class_row(StoredMessage)) as cursor:
        return cursor.execute(
            _FIND,
            {
                "statuses": [str(each) for each in statuses],
                "target": target,
                "ids": None if ids is None else list(ids),
                "dismissed": dismissed,
                "limit": limit,
            },
        ).fetchall()


def count(connection: psycopg.Connection, *, target: str | None = None) -> dict[Status, int]:
    """Count the messages that were not dismissed by status: to one target, or all."""
    counted: dict[str, int] = dict(connection.execute(_COUNT, {"target": target}).fetchall())
    return {status: counted.get(status, 0) for status in Status}


def retry(connection: psycopg.Connection, ids: Sequence[int]) -> list[int]:
    """Send failed messages and those in doubt again, without a limit of age; return the ids that were changed."""
    return [number for (number,) in connection.execute(_RETRY, (list(ids),))]


def confirm(connection: psycopg.Connection, ids: Sequence[int]) -> list[int]:
    """Record that the receivers have these messages in doubt; return the ids that were changed."""
    with connection.transaction():
        confirmed = connection.execute(_CONFIRM, (list(ids),)).fetchall()
        for kind, reference in sorted({(kind, reference) for _, kind, reference in confirmed}):
            _mark_cases(connection, kind, reference)
        return [number for number, _, _ in confirmed]


def dismiss(connection: psycopg.Connection, ids: Sequence[int]) -> list[int]:
    """Record that failed messages and those in doubt are no longer wanted; return the ids that were changed."""
    return [number for (number,) in connection.execute(_DISMISS, (list(ids),))]


def unsettled(connection: psycopg.Connection, *, sending_seconds: float) -> list[Unsettled]:
    """Return the targets with messages that failed, are in doubt, or are being sent for longer than this."""
    return [Unsettled(*row) for row in connection.execute(_UNSETTLED, (sending_seconds,))]


def exists(connection: psycopg.Connection, *, kind: Kind, reference: str) -> bool:
    """Return whether a message with this kind and reference was written, to whatever target."""
    row = connection.execute(
        "select exists (select from alert_outbox where kind = %s and reference = %s)", (kind, reference)
    ).fetchone()
    return row == (True,)


def add_cases(
    connection: psycopg.Connection, kind: Kind, day: date, entries: Sequence[CaseEntry], *, at: datetime
) -> None:
    """Record which cases of a day's list messages of a kind are about."""
    connection.execute(
        _ADD_CASES,
        (
            day,
            kind,
            at,
            [entry.case_id for entry in entries],
            [entry.reference for entry in entries],
            [Jsonb([str(event_id) for event_id in entry.event_ids]) for entry in entries],
        ),
    )


def replace_payload(connection: psycopg.Connection, number: int, payload: Mapping[str, object]) -> None:
    """Give a message another payload. Whoever is sending it already sends the former one."""
    connection.execute("update alert_outbox set payload = %s where id = %s", (Jsonb(dict(payload)), number))


def delete(connection: psycopg.Connection, numbers: Sequence[int]) -> None:
    """Delete messages by their ids, whatever their status."""
    connection.execute("delete from alert_outbox where id = any(%s)", (list(numbers),))


def alerted_on(connection: psycopg.Connection, day: date) -> set[int]:
    """Return the cases that messages of a day are about."""
    return {case_id for (case_id,) in connection.execute("select case_id from alerted_cases where day = %s", (day,))}


def alerted_of(connection: psycopg.Connection, case_ids: Sequence[int]) -> set[int]:
    """Return those of the cases that a message of any day is about."""
    rows = connection.execute("select case_id from alerted_cases where case_id = any(%s)", (list(case_ids),))
    return {case_id for (case_id,) in rows}


def _record(
    connection: psycopg.Connection,
    message: StoredMessage,
    status: Status,
    error: str,
    next_attempt: datetime | None = None,
) -> bool:
    parameters = {**_claim_of(message), "status": str(status), "error": error, "next_attempt": next_attempt}
    return connection.execute(_NOT_SENT, parameters).rowcount == 1


def _claim_of(message: StoredMessage) -> dict[str, object]:
    return {"id": message.id, "claimed_by": message.claimed_by, "claimed_at": message.claimed_at}


def _mark_cases(connection: psycopg.Connection, kind: Kind, reference: str) -> None:
    rows = connection.execute(
        "select event_ids from alerted_cases where kind = %s and reference = %s", (kind, reference)
    ).fetchall()
    if event_ids := [event_id for (each,) in rows for event_id in each]:
        high_risk_customers.mark_alerted(connection, event_ids)
