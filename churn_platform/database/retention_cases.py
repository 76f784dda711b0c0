"""The tables retention_cases and do_not_contact: finding scores that concern a case, and writing cases.

Triggers check each change of a status and write retention_case_history. What the retention team reads is in
case_reading.py; the day's list is in call_list.py.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from churn_platform.database import case_reading, worker_positions
from churn_platform.database.segments import segments_of_row
from churn_platform.database.worker_positions import RowRange
from churn_platform.errors import PlatformError
from churn_platform.schema.customer_schema import CustomerSchema

_REMEDY: Final = "'churn cases show {case_id}' shows the case and its history."
CONFLICT: Final = "CH002"
"""SQLSTATE of a change of a status that is not allowed, in a class that PostgreSQL leaves to its users."""

# Rows at or above the threshold, and all rows of customers with a case.
_NEW_ROWS: Final = sql.SQL("""
    select distinct on (p.customer_id) p.*
    from churn_predictions p
    {ranges}
    left join retention_cases c on c.customer_id = p.customer_id and c.closed_at is null
    where c.case_id is not null or p.risk_score::double precision >= %(threshold)s
    order by p.customer_id, p.event_timestamp desc, p.kafka_offset desc
""")
# The latest row of each customer who had a high-risk prediction lately.
_RECENT_ROWS: Final = sql.SQL("""
    select distinct on (p.customer_id) p.*
    from churn_predictions p
    where p.customer_id in (select customer_id from high_risk_customers where detected_at >= now() - %(since)s)
    order by p.customer_id, p.event_timestamp desc, p.kafka_offset desc
""")
# The latest row of each customer whose case is open again. Its scores were not followed while it was closed.
_REOPENED_ROWS: Final = sql.SQL("""
    select distinct on (p.customer_id) p.*
    from churn_predictions p
    where p.customer_id in (
        select customer_id from retention_cases where reopened_at is not null and closed_at is null
    )
    order by p.customer_id, p.event_timestamp desc, p.kafka_offset desc
""")
_REOPENED: Final = """
    select case_id from retention_cases where reopened_at is not null and closed_at is null for update
"""
_COMPARED: Final = "update retention_cases set reopened_at = null where case_id = any(%s)"
# Scores of a file count as of the time of the scoring. A customer whose score was applied to a case already, which may
# be closed since, is left out, so that reading them again changes nothing.
_FILE_ROWS: Final = sql.SQL("""
    select s.*, s.scored_at as event_timestamp, -1::bigint as kafka_offset
    from customer_file_scores s
    where s.risk_score::double precision >= %(threshold)s and not exists (
        select from retention_cases k where k.customer_id = s.customer_id and k.event_timestamp >= s.scored_at
    )
""")
# The latest event of a customer decides, also one that was read before: a late event changes nothing. With a case, the
# case knows the latest event.
_CANDIDATES: Final = sql.SQL("""
    with latest as ({rows})
    select l.customer_id, l.event_id, l.risk_score::double precision as risk_score, l.event_timestamp, l.kafka_offset,
        l.model_version, {money} as money_at_risk, {segments} as segments,
        c.case_id, c.status, c.event_timestamp as case_timestamp, c.kafka_offset as case_offset,
        (
            select max(contacted_at) from retention_cases e
            where e.customer_id = l.customer_id and e.contacted_at is not null
        ) as last_contact,
        (
            select max(closed_at) from retention_cases e where e.customer_id = l.customer_id and e.status = 'lost'
        ) as last_loss,
        exists (select from do_not_contact n where n.customer_id = l.customer_id) as do_not_contact
    from latest l left join retention_cases c on c.customer_id = l.customer_id and c.closed_at is null
    where c.case_id is not null or not exists (
        select from churn_predictions later
        where later.customer_id = l.customer_id
          and (later.event_timestamp, later.kafka_offset) > (l.event_timestamp, l.kafka_offset)
    )
""")
_OPEN: Final = """
    insert into retention_cases (
        customer_id, arm, control_share, event_id, event_timestamp, kafka_offset, model_version, risk_score,
        highest_risk_score, money_at_risk, priority, segments, link
    )
    select customer_id, arm, %(control_share)s, event_id, event_timestamp, kafka_offset, model_version, risk_score,
        risk_score, money_at_risk, priority, segments, link
    from unnest(
        {customer_ids}, %(arms)s::text[], %(event_ids)s::uuid[], %(event_timestamps)s::timestamptz[],
        %(kafka_offsets)s::bigint[], %(model_versions)s::integer[], %(risk_scores)s::real[],
        %(money)s::double precision[], %(priorities)s::double precision[], %(segments)s::jsonb[], %(links)s::text[]
    ) as u (
        customer_id, arm, event_id, event_timestamp, kafka_offset, model_version, risk_score, money_at_risk, priority,
        segments, link
    )
    where not exists (select from do_not_contact n where n.customer_id = u.customer_id)
    on conflict do nothing
"""
_UPDATE: Final = """
    update retention_cases c set
        event_id = u.event_id, event_timestamp = u.event_timestamp, kafka_offset = u.kafka_offset,
        model_version = u.model_version, risk_score = u.risk_score,
        highest_risk_score = greatest(c.highest_risk_score, u.risk_score),
        money_at_risk = u.money_at_risk, priority = u.priority, segments = u.segments
    from unnest(
        %(case_ids)s::bigint[], %(event_ids)s::uuid[], %(event_timestamps)s::timestamptz[],
        %(kafka_offsets)s::bigint[], %(model_versions)s::integer[], %(risk_scores)s::real[],
        %(money)s::double precision[], %(priorities)s::double precision[], %(segments)s::jsonb[]
    ) as u (
        case_id, event_id, event_timestamp, kafka_offset, model_version, risk_score, money_at_risk, priority, segments
    )
    where c.case_id = u.case_id and c.closed_at is null
"""
# A person may have closed the case meanwhile, which then stays as it is.
_CLOSE: Final = """
    update retention_cases c set status = 'expired', reason = u.reason
    from unnest(%s::bigint[], %s::text[]) as u (case_id, reason)
    where c.case_id = u.case_id and c.status in ('open', 'assigned')
"""
_EXPIRE_WAITING: Final = """
    update retention_cases set status = 'expired', reason = %(reason)s
    where status in ('open', 'assigned') and event_timestamp < now() - %(expiry)s
"""
_EXPIRE_CONTACTED: Final = """
    update retention_cases set status = 'expired', reason = %(reason)s
    where status = 'contacted' and closed_at is null and contacted_at < now() - %(cool_off)s
"""
_UNEXPLAINED: Final = """
    select c.case_id, c.event_id, coalesce(h.reasons, s.reasons)
    from retention_cases c
    left join high_risk_customers h using (event_id) left join customer_file_scores s using (event_id)
    where c.closed_at is null and c.explained_event_id is distinct from c.event_id
      and coalesce(h.reasons, s.reasons) is not null
    limit %s
"""
_EXPLAIN: Final = """
    update retention_cases c set
        reasons = array(select jsonb_array_elements_text(u.reasons)), explained_event_id = u.event_id
    from unnest(%s::bigint[], %s::uuid[], %s::jsonb[]) as u (case_id, event_id, reasons)
    where c.case_id = u.case_id and c.event_id = u.event_id
"""
_VALUED: Final = """
    select case_id, customer_id, risk_score::double precision, money_at_risk, priority, link
    from retention_cases where closed_at is null
"""
_REVALUE: Final = """
    update retention_cases c set priority = u.priority, link = u.link
    from unnest(%s::bigint[], %s::double precision[], %s::text[]) as u (case_id, priority, link)
    where c.case_id = u.case_id
"""
# The waiting cases of the contact arm with the highest priorities, and those of the control arm that reach them.
_WAITING: Final = """
    select c.case_id, c.priority, exists (
        select from retention_list_entries e
        where e.customer_id = c.customer_id and e.day > %(day)s::date - %(cool_off)s::integer
    ) as entered
    from retention_cases c
    where c.arm = %(arm)s and c.status in ('open', 'assigned') and c.priority >= %(least)s
    order by c.priority desc, c.case_id limit %(limit)s
"""
_LISTED: Final = """
    select case_id, list_day, list_rank from retention_cases where list_rank is not null order by list_rank
"""
_UNLIST: Final = """
    update retention_cases set list_day = null, list_rank = null
    where list_rank is not null and not case_id = any(%s)
"""
_LIST: Final = """
    update retention_cases c set list_day = %s, list_rank = u.list_rank
    from unnest(%s::bigint[], %s::integer[]) as u (case_id, list_rank)
    where c.case_id = u.case_id and c.status in ('open', 'assigned')
"""
# A second person to record a call or a result learns of the first one's. An assigned case may get another owner.
_CHANGE: Final = """
    update retention_cases set
        status = coalesce(%(status)s, status), owner = coalesce(%(owner)s, owner),
        notes = case when %(note)s::text is null then notes else concat_ws(E'\\n', notes, %(note)s) end
    where case_id = %(case_id)s and arm = 'contact'
      and (%(status)s::text is null or status <> %(status)s or status = 'assigned')
"""
_LOCK: Final = "select from retention_cases where case_id = %s and arm = 'contact' for update"
_LAST_CHANGE: Final = "select coalesce(max(change), 0) from v_retention_case_history where case_id = %s"
# The trigger checks that this is the state before the change, and that the change can be taken back.
_TAKE_BACK: Final = """
    update retention_cases c set status = b.status, owner = b.owner, notes = b.notes
    from (
        select status, owner, notes from v_retention_case_history
        where case_id = %(case_id)s and change < %(change)s order by change desc limit 1
    ) b
    where c.case_id = %(case_id)s
"""
# The last outcome of a customer counts. One from before the case's latest event, or from before the call, says nothing
# about the case. That a customer stayed who was not called does not close the case: the risk is what it was.
_CLOSE_BY_OUTCOMES: Final = """
    with given as (
        select coalesce(o.customer_id, p.customer_id) as customer_id, o.churned, o.at, o.place
        from unnest(%(customers)s::{id_type}[], %(events)s::uuid[], %(churned)s::smallint[], %(at)s::timestamptz[])
            with ordinality as o (customer_id, event_id, churned, at, place)
        left join churn_predictions p on o.customer_id is null and p.event_id = o.event_id
    ), told as (
        select distinct on (customer_id) customer_id, churned, at
        from given where customer_id is not null order by customer_id, at desc, place desc
    )
    update retention_cases c set
        status = case told.churned when 1 then 'lost' else 'kept' end,
        reason = case told.churned when 1 then 'An outcome reports that the customer left.'
            else 'An outcome reports that the customer stayed.' end
    from told
    where c.customer_id = told.customer_id and c.closed_at is null and (
        (told.churned = 1 and told.at >= c.event_timestamp)
        or (told.churned = 0 and c.status = 'contacted' and told.at >= c.contacted_at)
    )
    returning c.status
"""
_COUNTS: Final = """
    select arm, status, count(*) from retention_cases where closed_at is null group by 1, 2 order by 1, 2
"""


class CaseError(PlatformError):
    """A case that does not exist, or whose status cannot change in this way."""


class CaseChangedError(CaseError):
    """A case that somebody has changed meanwhile."""


@dataclass(frozen=True)
class Candidate:
    """A customer's latest score, the customer's case if one is not closed, and what is known about contacts.

    Attributes:
        customer_id: id of the customer.
        event_id: of the latest event.
        risk_score: its probability of churn, 0..1.
        event_timestamp: its time.
        kafka_offset: its offset.
        model_version: that scored it.
        money_at_risk: what is lost with the customer; None if unknown.
        segments: name of a column -> the customer's value or band.
        case_id: of the customer's case; None without one. Then the next three are None, too.
        status: of the case.
        case_timestamp: time of the latest event that the case knows.
        case_offset: offset of that event.
        last_contact: when the customer was last called; None if never.
        last_loss: when a case of the customer was last closed as lost; None if never.
        do_not_contact: whether the customer does not want to be called.
    """

    customer_id: int | str
    event_id: UUID
    risk_score: float
    event_timestamp: datetime
    kafka_offset: int
    model_version: int
    money_at_risk: float | None
    segments: dict[str, str]
    case_id: int | None
    status: str | None
    case_timestamp: datetime | None
    case_offset: int | None
    last_contact: datetime | None
    last_loss: datetime | None
    do_not_contact: bool


@dataclass(frozen=True)
class Valued:
    """An open case with what its priority and link follow from."""

    case_id: int
    customer_id: int | str
    risk_score: float
    money_at_risk: float | None
    priority: float
    link: str | None


@contextmanager
def acting(connection: psycopg.Connection, actor: str) -> Iterator[None]:
    """Run the block in a transaction whose changes the history records as made by this person or program."""
    with connection.transaction():
        connection.execute("select set_config('churn.actor', %s, true)", (actor,))
        yield


@contextmanager
def reading(connection: psycopg.Connection) -> Iterator[None]:
    """Run the block in a transaction that reads, with one snapshot for all its statements."""
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        yield


def candidates_of(
    connection: psycopg.Connection,
    schema: CustomerSchema,
    ranges: Sequence[RowRange],
    *,
    threshold: float,
    first_block: int | None,
) -> list[Candidate]:
    """Return the customers with a case and those at risk, among the rows of these ranges.

    Args:
        connection: to the platform's database.
        schema: of the customers.
        ranges: rows to read.
        threshold: risk score from which a customer without a case is returned, 0..1.
        first_block: only rows in this block of churn_predictions or a later one; None to read all of the batches.
    """
    if not ranges:
        return []
    return _candidates(
        connection,
        _statement(schema, rows=_NEW_ROWS.format(ranges=worker_positions.join_ranges(first_block=first_block))),
        {**worker_positions.of_rows(ranges, first_block=first_block), "threshold": threshold},
    )


def recent_candidates(connection: psycopg.Connection, schema: CustomerSchema, *, since: timedelta) -> list[Candidate]:
    """Return the customers with a high-risk prediction in this time before now, each with the latest score."""
    return _candidates(connection, _statement(schema, rows=_RECENT_ROWS), {"since": since})


def file_candidates(connection: psycopg.Connection, schema: CustomerSchema, *, threshold: float) -> list[Candidate]:
    """Return the customers of the latest scored file who are at risk, and whose score no case has had yet.

    Args:
        connection: to the platform's database.
        schema: of the customers.
        threshold: risk score from which a customer is returned, 0..1.
    """
    return _candidates(connection, _statement(schema, rows=_FILE_ROWS), {"threshold": threshold})


def reopened(connection: psycopg.Connection) -> list[int]:
    """Return the cases that somebody has opened again, and that were not compared with the latest scores since.

    They are locked until the end of the caller's transaction.
    """
    return [case_id for (case_id,) in connection.execute(_REOPENED)]


def reopened_candidates(connection: psycopg.Connection, schema: CustomerSchema) -> list[Candidate]:
    """Return the customers of these cases, each with the latest score."""
    return _candidates(connection, _statement(schema, rows=_REOPENED_ROWS), {})


def mark_compared(connection: psycopg.Connection, case_ids: Sequence[int]) -> None:
    """Record that these cases were compared with their customers' latest scores."""
    connection.execute(_COMPARED, (list(case_ids),))


def _candidates(
    connection: psycopg.Connection, statement: sql.Composed, arguments: dict[str, object]
) -> list[Candidate]:
    with connection.cursor(row_factory=class_row(Candidate)) as cursor:
        # Prepared, PostgreSQL would plan the statement for any blocks, and read the whole table.
        return cursor.execute(statement, arguments, prepare=False).fetchall()


def _statement(schema: CustomerSchema, *, rows: sql.Composable) -> sql.Composed:
    money = schema.money_at_risk
    return _CANDIDATES.format(
        rows=rows,
        money=sql.SQL("null::double precision")
        if money is None
        else sql.SQL("l.{}::double precision").format(sql.Identifier(money.column)),
        segments=segments_of_row(schema, table="l"),
    )


def open_cases(
    connection: psycopg.Connection,
    schema: CustomerSchema,
    found: Sequence[Candidate],
    *,
    arms: Sequence[str],
    control_share: float,
    priorities: Sequence[float],
    links: Sequence[str | None],
) -> int:
    """Open a case for each of these customers; return how many were opened.

    Args:
        connection: in a transaction.
        schema: of the customers.
        found: customers without a case.
        arms: "contact" or "control", one for each.
        control_share: share of the control arm that the arms follow from, 0..1.
        priorities: expected values of a call, one for each.
        links: to the customers in the CRM, one for each.
    """
    customer_ids = sql.SQL("%(customer_ids)s::{}[]").format(sql.SQL(schema.id_type))
    return connection.execute(
        sql.SQL(_OPEN).format(customer_ids=customer_ids),
        {
            "customer_ids": [each.customer_id for each in found],
            "arms": list(arms),
            "control_share": control_share,
            "links": list(links),
            **_scores(found, priorities),
        },
    ).rowcount


def update_scores(connection: psycopg.Connection, found: Sequence[Candidate], *, priorities: Sequence[float]) -> None:
    """Give the cases of these customers their latest scores. One that was closed meanwhile stays as it is."""
    connection.execute(_UPDATE, {"case_ids": [each.case_id for each in found], **_scores(found, priorities)})


def close(connection: psycopg.Connection, case_ids: Sequence[int], *, reasons: Sequence[str]) -> int:
    """Close cases that wait for a call, each with its reason; return how many were closed."""
    return connection.execute(_CLOSE, (list(case_ids), list(reasons))).rowcount


@dataclass(frozen=True)
class Told:
    """What an outcome says: the customer or else the event that it is about, whether the customer left, and when."""

    customer_id: int | str | None
    event_id: UUID | None
    churned: int
    at: datetime


def close_by_outcomes(connection: psycopg.Connection, schema: CustomerSchema, told: Sequence[Told]) -> dict[str, int]:
    """Close cases of customers who left as lost, and of customers who stayed after a call as kept, in both arms.

    Args:
        connection: in the transaction that stores the outcomes.
        schema: of the customers.
        told: the outcomes, in the order of their arrival.

    Returns:
        How many cases were closed, by their new status: kept and lost.
    """
    closed = {"kept": 0, "lost": 0}
    if told:
        query = sql.SQL(_CLOSE_BY_OUTCOMES).format(id_type=sql.SQL(schema.id_type))
        parameters = {
            "customers": [each.customer_id for each in told],
            "events": [each.event_id for each in told],
            "churned": [each.churned for each in told],
            "at": [each.at for each in told],
        }
        for (status,) in connection.execute(query, parameters):
            closed[status] += 1
    return closed


def expire(connection: psycopg.Connection, *, expiry: timedelta, cool_off: timedelta) -> int:
    """Close cases whose time is over; return how many.

    Args:
        connection: to the platform's database.
        expiry: age of the latest event from which a case without a call is closed.
        cool_off: time after a call, without an outcome, after which the case is closed.
    """
    waiting = {"expiry": expiry, "reason": f"The customer's latest event is older than {expiry.days} days."}
    contacted = {"cool_off": cool_off, "reason": f"No outcome within {cool_off.days} days after the call."}
    return (
        connection.execute(_EXPIRE_WAITING, waiting).rowcount
        + connection.execute(_EXPIRE_CONTACTED, contacted).rowcount
    )


def unexplained(connection: psycopg.Connection, *, limit: int) -> list[tuple[int, UUID, list[dict[str, Any]]]]:
    """Return cases whose latest event has new reasons: case, event and the reasons of high_risk_customers."""
    return connection.execute(_UNEXPLAINED, (limit,)).fetchall()


def explain(connection: psycopg.Connection, explained: Sequence[tuple[int, UUID, Sequence[str]]]) -> None:
    """Store the sentences of cases: case, event that they are about, and the sentences, strongest first."""
    case_ids, events, texts = zip(*explained, strict=True)
    connection.execute(_EXPLAIN, (list(case_ids), list(events), [Jsonb(list(each)) for each in texts]))


def valued(connection: psycopg.Connection) -> list[Valued]:
    """Return all cases that are not closed, with what their priorities follow from."""
    with connection.cursor(row_factory=class_row(Valued)) as cursor:
        return cursor.execute(_VALUED).fetchall()


def revalue(
    connection: psycopg.Connection,
    case_ids: Sequence[int],
    *,
    priorities: Sequence[float],
    links: Sequence[str | None],
) -> None:
    """Store other priorities and links of these cases."""
    connection.execute(_REVALUE, (list(case_ids), list(priorities), list(links)))


def waiting(
    connection: psycopg.Connection, *, arm: str, day: date, cool_off: timedelta, least: float, limit: int | None
) -> list[tuple[int, float, bool]]:
    """Return cases that wait for a call, the highest priority first.

    Args:
        connection: to the platform's database.
        arm: "contact" or "control".
        day: of the team.
        cool_off: of entries in the list.
        least: priority from which a case is returned.
        limit: most cases; None: all.

    Returns:
        The case, its priority, and whether the customer has entered a list within the cool-off before the day.
    """
    return connection.execute(
        _WAITING, {"arm": arm, "day": day, "cool_off": cool_off.days, "least": least, "limit": limit}
    ).fetchall()


def listed(connection: psycopg.Connection) -> list[tuple[int, date, int]]:
    """Return the cases that are on the list, with its day and their places, in order."""
    return connection.execute(_LISTED).fetchall()


def set_list(connection: psycopg.Connection, day: date, *, case_ids: Sequence[int], ranks: Sequence[int]) -> None:
    """Make these cases the list of a day, in the caller's transaction. The others are on no list."""
    connection.execute(_UNLIST, (list(case_ids),))
    connection.execute(_LIST, (day, list(case_ids), list(ranks)))


def contacted_between(connection: psycopg.Connection, start: datetime, end: datetime) -> int:
    """Return how many customers were called in [start, end)."""
    row = connection.execute(
        "select count(*) from retention_cases where contacted_at >= %s and contacted_at < %s", (start, end)
    ).fetchone()
    return 0 if row is None else int(row[0])


def last_change(connection: psycopg.Connection) -> int:
    """Return the number of the latest change of any case; 0 before the first."""
    row = connection.execute("select coalesce(max(change), 0) from retention_case_history").fetchone()
    return 0 if row is None else int(row[0])


def counts(connection: psycopg.Connection) -> list[tuple[str, str, int]]:
    """Return how many cases are not closed, by arm and status."""
    return connection.execute(_COUNTS).fetchall()


def _scores(found: Sequence[Candidate], priorities: Sequence[float]) -> dict[str, object]:
    return {
        "event_ids": [each.event_id for each in found],
        "event_timestamps": [each.event_timestamp for each in found],
        "kafka_offsets": [each.kafka_offset for each in found],
        "model_versions": [each.model_version for each in found],
        "risk_scores": [each.risk_score for each in found],
        "money": [each.money_at_risk for each in found],
        "priorities": list(priorities),
        "segments": [Jsonb(each.segments) for each in found],
    }


def block_contact(connection: psycopg.Connection, customer_id: int | str, *, reason: str, actor: str) -> None:
    """Put a customer on the do-not-contact list, and dismiss the customer's case if it waits for a call."""
    with acting(connection, actor):
        connection.execute(
            "insert into do_not_contact (customer_id, reason, added_by) values (%s, %s, %s) "
            "on conflict (customer_id) do update set reason = excluded.reason",
            (customer_id, reason, actor),
        )
        connection.execute(
            "update retention_cases set status = 'dismissed', reason = 'The customer does not want to be called.' "
            "where customer_id = %s and closed_at is null and status in ('open', 'assigned')",
            (customer_id,),
        )


def allow_contact(connection: psycopg.Connection, customer_id: int | str) -> bool:
    """Take a customer off the do-not-contact list; return whether the customer was on it."""
    return connection.execute("delete from do_not_contact where customer_id = %s", (customer_id,)).rowcount == 1


def change(
    connection: psycopg.Connection,
    case_id: int,
    *,
    actor: str,
    status: str | None = None,
    owner: str | None = None,
    note: str | None = None,
    seen: int | None = None,
) -> int:
    """Change a case of the contact arm, as a person does; return the number of the case's last change.

    Args:
        connection: of the retention team's login, or of the platform's.
        case_id: of the case.
        actor: who makes the change, for the history.
        status: the new one; None leaves it.
        owner: the new one; None leaves it.
        note: added to the notes as a line; None leaves them.
        seen: the case's last change that the person knows of; None to change the case in any state.

    Raises:
        CaseError: there is no such case, it has this status already, or its status cannot become this one.
        CaseChangedError: there is a later change than `seen`.
    """
    with _changing(connection, case_id, actor=actor, seen=seen):
        changed = connection.execute(_CHANGE, {"case_id": case_id, "status": status, "owner": owner, "note": note})
        if changed.rowcount == 0:
            raise _recorded_already(connection, case_id)
        return _last_change_of(connection, case_id)


def take_back(connection: psycopg.Connection, case_id: int, *, actor: str, seen: int | None = None) -> int:
    """Restore status, owner and notes of a case as they were before the last change; return the number of this change.

    A change can be taken back for a day, if a person has made it and nothing has changed since except for what was
    taken back. The trigger checks that.

    Args:
        connection: of the retention team's login, or of the platform's.
        case_id: of the case.
        actor: who takes it back, for the history.
        seen: the case's last change that the person knows of; None for any.

    Raises:
        CaseError: there is no such case, or its last change cannot be taken back.
        CaseChangedError: there is a later change than `seen`.
    """
    with _changing(connection, case_id, actor=actor, seen=seen):
        target = change_to_take_back(connection, case_id)
        if target is None:
            raise CaseError(
                f"The last change of case {case_id} cannot be taken back: that is possible for a day, and only for a "
                f"change that a person has made. Nothing was changed.",
                remedy=_REMEDY.format(case_id=case_id),
            )
        connection.execute("select set_config('churn.takes_back', %s, true)", (str(target),))
        connection.execute(_TAKE_BACK, {"case_id": case_id, "change": target})
        return _last_change_of(connection, case_id)


def change_to_take_back(connection: psycopg.Connection, case_id: int) -> int | None:
    """Return the number of the change of a case that can be taken back now; None if there is none."""
    row = connection.execute("select change_to_take_back(%s::bigint)", (case_id,)).fetchone()
    return None if row is None else row[0]


@contextmanager
def _changing(connection: psycopg.Connection, case_id: int, *, actor: str, seen: int | None) -> Iterator[None]:
    """Run the block in a transaction that has locked a case."""
    try:
        with acting(connection, actor):
            if connection.execute(_LOCK, (case_id,)).rowcount == 0:
                raise CaseError(
                    f"There is no case {case_id}. Nothing was changed.",
                    remedy="'churn cases list --all' shows the cases.",
                )
            if seen is not None and _last_change_of(connection, case_id) != seen:
                raise CaseChangedError(
                    f"Case {case_id} was changed meanwhile. Nothing was changed.",
                    remedy=_REMEDY.format(case_id=case_id),
                )
            yield
    except psycopg.errors.UniqueViolation:
        raise CaseError(
            f"Case {case_id} cannot be opened again: the customer has a newer case. Nothing was changed."
        ) from None
    except psycopg.Error as error:
        if error.sqlstate != CONFLICT:
            raise
        text = str(error.diag.message_primary)
        raise CaseError(
            f"{text[:1].upper()}{text[1:]}. Nothing was changed.", remedy=_REMEDY.format(case_id=case_id)
        ) from None


def _last_change_of(connection: psycopg.Connection, case_id: int) -> int:
    row = connection.execute(_LAST_CHANGE, (case_id,)).fetchone()
    return 0 if row is None else int(row[0])


def _recorded_already(connection: psycopg.Connection, case_id: int) -> CaseError:
    """Return who has given a case the status that it was to get."""
    history = case_reading.history(connection, case_id)
    status = history[-1].status
    taken_back = {each.takes_back for each in history}
    in_effect = (each for each in history if each.takes_back is None and each.change not in taken_back)
    first = next((each for each in in_effect if each.status == status), history[-1])
    return CaseError(
        f"Case {case_id} is {status} already: {first.changed_by} recorded this at "
        f"{first.changed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC. Nothing was changed.",
        remedy=_REMEDY.format(case_id=case_id),
    )
