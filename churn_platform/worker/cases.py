"""The duty that keeps cases and the day's call list: it follows the stream's commits at a short distance."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final
from zoneinfo import ZoneInfo

import psycopg

from churn_platform.database import (
    customer_file_scores,
    erased_customers,
    list_entries,
    retention_cases,
    retention_keys,
    worker_observations,
    worker_positions,
)
from churn_platform.database.erased_customers import NOBODY
from churn_platform.database.new_rows import NewRows
from churn_platform.database.retention_cases import Candidate
from churn_platform.database.worker_observations import CALL_LIST, CASES
from churn_platform.database.worker_positions import Behind
from churn_platform.retention.arm import CONTACT, CONTROL, arm_of
from churn_platform.retention.business_day import business_day, day_bounds
from churn_platform.retention.call_list import DayList, Waiting, plan_list
from churn_platform.retention.contact_policy import ContactPolicy, OpenCase, Opening, Score, Update, decide
from churn_platform.retention.priority import CallValue, priority
from churn_platform.retention.reasons import sentences
from churn_platform.retention.transitions import WAITING
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import CasesFrom, customer_link
from churn_platform.worker.pace import Pace
from churn_platform.worker.stream_backlog import StreamBacklog, unknown

_log = logging.getLogger("churn.worker")

NAME: Final = "cases"
ACTOR: Final = "worker"
"""What the history of a case names as the author of the worker's changes."""

# Seconds between two looks at the stream's positions. A case is at most 5 s behind the stream, unless that works off a
# backlog (see pace.py).
PAUSE: Final = 4.0
# Offsets that one run follows at most. Reading their rows takes a second or two, and a statement may take 60 s.
MOST_OFFSETS: Final = 1_000_000
# Seconds that the first start may take to find the latest score of everybody who was at risk lately.
FIRST_START_SECONDS: Final = 3_600
# Rows of cases that are explained in one transaction.
EXPLAINED_AT_ONCE: Final = 1_000
# Seconds between two searches for cases whose time is over. They are over by days, so a minute makes no difference. The
# list is planned again as well: of two people's changes, the one with the lower number may be committed later.
CHECK_SECONDS: Final = 60.0


@dataclass(frozen=True)
class CasesConfig:
    """What the duty needs to know.

    Attributes:
        schema: of the customers.
        policy: when cases are opened and closed.
        value: of a call.
        control_share: share of the customers in the control arm, 0..1.
        cases_per_day: customers that the team can call in a day.
        timezone: of the team.
        customer_url: address of a customer in the CRM, with a place for the id; empty for none.
        most_offsets: offsets that one run follows at most.
        cases_from: whose scores open cases. Those of the stream update and close cases in any case.
    """

    schema: CustomerSchema
    policy: ContactPolicy
    value: CallValue
    control_share: float
    cases_per_day: int
    timezone: ZoneInfo
    customer_url: str
    most_offsets: int = MOST_OFFSETS
    cases_from: CasesFrom = "stream"

    def priority_of(self, risk: float, money_at_risk: float | None) -> float:
        """Return the priority of a customer."""
        return priority(risk, money_at_risk, self.value)

    def link_of(self, customer_id: int | str) -> str | None:
        """Return the address of a customer in the CRM; None if there is none."""
        return customer_link(self.customer_url, customer_id)


class CasesDuty:
    """Opens, updates and closes cases, explains them, and keeps the call list. One worker at a time runs it."""

    name = NAME
    exclusive = True
    interval = PAUSE

    def __init__(
        self,
        config: CasesConfig,
        *,
        stream_backlog: StreamBacklog = unknown,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the duty.

        Args:
            config: what it needs to know.
            stream_backlog: asked whether the stream works off a backlog.
            now: the present time, with a time zone.
            monotonic: seconds, for pauses.
        """
        self._config = config
        self._now = now
        self._monotonic = monotonic
        self._revalued = False
        self._new_rows = NewRows()
        self._stream_backlog = stream_backlog
        self._pace = Pace(monotonic=monotonic)
        self._checked_at = float("-inf")
        self._list_state: tuple[date, int] | None = None
        self._file_scored_at: datetime | None = None
        self._erased = NOBODY

    def run(self, connection: psycopg.Connection) -> bool:
        """Bring cases and list up to date with the stream; return whether it is further ahead than one run follows."""
        if not self._revalued:
            self._revalue(connection)
            self._revalued = True
        changed, left = False, 0
        waiting = sum(each.offsets for each in worker_positions.behind(connection, NAME))
        if not self._pace.waits(waiting, lambda: self._stream_backlog(connection)) and waiting:
            changed, left = self._follow(connection)
            self._pace.followed(left)
        changed = self._open_from_file(connection) or changed
        changed = self._compare_reopened(connection) or changed
        changed = self._explain(connection) or changed
        changed = self._check_times(connection) or changed
        self._keep_list(connection, changed=changed)
        return left > 0

    # Scores

    def _follow(self, connection: psycopg.Connection) -> tuple[bool, int]:
        """Apply the scores that were committed since the last run.

        Returns:
            Whether a case may have changed, and the number of offsets left for the next run.
        """
        if not worker_positions.has_begun(connection, NAME):
            return self._begin(connection), 0
        with retention_cases.reading(connection):
            behind = worker_positions.behind(connection, NAME)
            following = worker_positions.first_offsets(behind, self._config.most_offsets)
            left = sum(each.offsets for each in behind) - sum(each.offsets for each in following)
            found, new_rows = self._read(connection, following, is_all=not left)
        with _acting(connection):
            worker_positions.advance(connection, NAME, following)
            changed = self._apply(connection, found, opens=self._stream_opens)
        self._new_rows = new_rows  # only now: after an error, the same rows are read again
        return changed, left

    def _begin(self, connection: psycopg.Connection) -> bool:
        """Start to follow the stream where it is. Customers who are at risk already get a case, too."""
        with _acting(connection):
            connection.execute("select set_config('statement_timeout', %s, true)", (f"{FIRST_START_SECONDS}s",))
            worker_positions.begin(connection, NAME)
            policy = self._config.policy
            found = retention_cases.recent_candidates(connection, self._config.schema, since=policy.expiry)
            return self._apply(connection, found, opens=self._stream_opens)

    def _read(
        self, connection: psycopg.Connection, following: Sequence[Behind], *, is_all: bool
    ) -> tuple[list[Candidate], NewRows]:
        """Return the scores of these offsets that may concern a case, and what is known once they are applied."""
        ranges = worker_positions.row_ranges(connection, following)
        first_block, new_rows = self._new_rows.read(connection, ranges) if is_all else (None, NewRows())
        found = retention_cases.candidates_of(
            connection,
            self._config.schema,
            ranges,
            threshold=self._config.policy.threshold,
            first_block=first_block,
        )
        return found, new_rows

    @property
    def _stream_opens(self) -> bool:
        return self._config.cases_from != "file"

    def _open_from_file(self, connection: psycopg.Connection) -> bool:
        """Apply the scores of a file that was scored since the last run; return whether a case may have changed."""
        if self._config.cases_from == "stream":
            return False
        scored_at = customer_file_scores.scored_at(connection)
        if scored_at is None or scored_at == self._file_scored_at:
            return False
        with _acting(connection):
            found = retention_cases.file_candidates(
                connection, self._config.schema, threshold=self._config.policy.threshold
            )
            changed = self._apply(connection, found, opens=True)
        self._file_scored_at = scored_at
        return changed

    def _compare_reopened(self, connection: psycopg.Connection) -> bool:
        """Give cases that somebody has opened again their latest scores; return whether there are any."""
        with _acting(connection):
            case_ids = retention_cases.reopened(connection)
            if case_ids:
                found = retention_cases.reopened_candidates(connection, self._config.schema)
                self._apply(connection, found, opens=False)
                retention_cases.mark_compared(connection, case_ids)
        return bool(case_ids)

    def _apply(self, connection: psycopg.Connection, found: Sequence[Candidate], *, opens: bool) -> bool:
        """Write what follows from these scores; return whether anything does. They open cases only if `opens`."""
        # The scores may have been read before a customer was erased.
        self._erased = erased_customers.load_again(connection, self._erased)
        found = [each for each in found if each.customer_id not in self._erased]
        now = self._now()
        decided = [(each, decide(_score(each), _case(each), self._config.policy, now=now)) for each in found]
        opening = [each for each, result in decided if isinstance(result, Opening) and opens]
        updates = [(each, result) for each, result in decided if isinstance(result, Update)]
        if opening:
            self._open(connection, opening)
        if updates:
            scored = [each for each, _ in updates]
            retention_cases.update_scores(connection, scored, priorities=self._priorities(scored))
        closing = [
            (each.case_id, result.closing_reason)
            for each, result in updates
            if each.case_id is not None and result.closing_reason is not None
        ]
        if closing:
            case_ids, reasons = zip(*closing, strict=True)
            retention_cases.close(connection, case_ids, reasons=reasons)
        return bool(opening or updates)

    def _open(self, connection: psycopg.Connection, opening: Sequence[Candidate]) -> None:
        key = retention_keys.ensure_key(connection)
        share = self._config.control_share
        retention_cases.open_cases(
            connection,
            self._config.schema,
            opening,
            arms=[arm_of(each.customer_id, key=key, control_share=share) for each in opening],
            control_share=share,
            priorities=self._priorities(opening),
            links=[self._config.link_of(each.customer_id) for each in opening],
        )

    def _priorities(self, found: Sequence[Candidate]) -> list[float]:
        return [self._config.priority_of(each.risk_score, each.money_at_risk) for each in found]

    def _revalue(self, connection: psycopg.Connection) -> None:
        """Apply settings that were changed since the last start: the value of a call, and the CRM's address."""
        other = [
            (each.case_id, worth, link)
            for each in retention_cases.valued(connection)
            for worth, link in [
                (
                    self._config.priority_of(each.risk_score, each.money_at_risk),
                    self._config.link_of(each.customer_id),
                )
            ]
            if (worth, link) != (each.priority, each.link)
        ]
        if other:
            case_ids, priorities, links = zip(*other, strict=True)
            retention_cases.revalue(connection, case_ids, priorities=priorities, links=links)
            self._list_state = None

    def _explain(self, connection: psycopg.Connection) -> bool:
        """Give cases their reasons, which the stream stores moments after a score; return whether there were any."""
        found = retention_cases.unexplained(connection, limit=EXPLAINED_AT_ONCE)
        if found:
            retention_cases.explain(
                connection,
                [(case_id, event_id, sentences(reasons, self._config.schema)) for case_id, event_id, reasons in found],
            )
        return bool(found)

    def _check_times(self, connection: psycopg.Connection) -> bool:
        """Close cases whose time is over, once a minute; return whether this was done."""
        if self._monotonic() - self._checked_at < CHECK_SECONDS:
            return False
        policy = self._config.policy
        with _acting(connection):
            retention_cases.expire(connection, expiry=policy.expiry, cool_off=policy.cool_off)
        self._checked_at = self._monotonic()
        return True

    # The list

    def _keep_list(self, connection: psycopg.Connection, *, changed: bool) -> None:
        """Bring the list up to date, if a score, a person or midnight has changed anything."""
        day = business_day(self._now(), self._config.timezone)
        state = (day, retention_cases.last_change(connection))
        if not changed and state == self._list_state:
            return
        with _acting(connection):
            found = self._plan_list(connection, day)
            places = [(place.case_id, day, place.rank) for place in found.listed]
            if retention_cases.listed(connection) != places:
                retention_cases.set_list(
                    connection,
                    day,
                    case_ids=[place.case_id for place in found.listed],
                    ranks=[place.rank for place in found.listed],
                )
            entering = [*found.entering, *found.entering_controls]
            if entering:
                list_entries.enter(
                    connection,
                    day,
                    case_ids=[place.case_id for place in entering],
                    ranks=[place.rank for place in entering],
                    cool_off=self._config.policy.cool_off,
                )
            self._observe(connection, day, found)
        self._list_state = state

    def _plan_list(self, connection: psycopg.Connection, day: date) -> DayList:
        def waiting(arm: str, *, least: float, limit: int | None) -> list[Waiting]:
            found = retention_cases.waiting(
                connection, arm=arm, day=day, cool_off=self._config.policy.cool_off, least=least, limit=limit
            )
            return [Waiting(*each) for each in found]

        start, end = day_bounds(day, self._config.timezone)
        capacity, contacted = self._config.cases_per_day, retention_cases.contacted_between(connection, start, end)
        room = max(0, capacity - contacted)
        contacts = waiting(CONTACT, least=0.0, limit=room)
        reached = contacts[-1].priority if room and len(contacts) == room else 0.0
        controls = waiting(CONTROL, least=reached, limit=None) if room else []
        return plan_list(contacts, controls, capacity=capacity, contacted_today=contacted)

    def _observe(self, connection: psycopg.Connection, day: date, found: DayList) -> None:
        by_status: dict[str, int] = {}
        for arm, status, count in retention_cases.counts(connection):
            by_status[f"{status}_{arm}"] = count
        worker_observations.observe(connection, CASES, {"open_cases": sum(by_status.values()), **by_status})
        worker_observations.observe(
            connection,
            CALL_LIST,
            {"day": day.isoformat(), "listed": len(found.listed), "cases_per_day": self._config.cases_per_day},
        )


def _score(found: Candidate) -> Score:
    return Score(
        risk=found.risk_score,
        event_timestamp=found.event_timestamp,
        kafka_offset=found.kafka_offset,
        last_contact=found.last_contact,
        last_loss=found.last_loss,
        do_not_contact=found.do_not_contact,
    )


def _case(found: Candidate) -> OpenCase | None:
    if found.case_timestamp is None or found.case_offset is None:
        return None
    return OpenCase(waits=found.status in WAITING, event_timestamp=found.case_timestamp, kafka_offset=found.case_offset)


@contextmanager
def _acting(connection: psycopg.Connection) -> Iterator[None]:
    """Run the block in a transaction whose changes the history records as the worker's, and that holds off erasures."""
    with connection.transaction():
        erased_customers.hold_off(connection)
        with retention_cases.acting(connection, ACTOR):
            yield
