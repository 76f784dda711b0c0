"""The pages for people who call customers: today's list, one case, and what somebody has called."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import fsum
from typing import Final

import psycopg
from starlette.responses import Response

from churn_platform.dashboard.case_actions import Action, case_number, change, done_of, possible_actions
from churn_platform.dashboard.case_history import Step, steps_of
from churn_platform.dashboard.exceptions import NotFoundError
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.segments import described, in_order, segment_name, value_name
from churn_platform.database import case_reading, retention_cases, worker_observations
from churn_platform.database.case_reading import Case
from churn_platform.files import spreadsheets
from churn_platform.retention.business_day import business_day, day_bounds
from churn_platform.retention.transitions import CLOSED, STATUSES, WAITING
from churn_platform.schema.columns import Column

REFRESH_SECONDS: Final = 15
RETURN_SECONDS: Final = 2
"""Seconds between renewals while an undone call is about to return to the list."""
RETURNS_WITHIN: Final = timedelta(seconds=20)
"""The worker makes the list every few seconds. A case that is not on it then has no place there."""
ROWS: Final = 100
"""Cases on one page."""
MOST_CASES: Final = 2**62
WHO: Final = {"all": "Everybody", "mine": "Mine", "nobody": "Nobody"}
"""The choices of the filter by owner."""
SHOWN: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "all": ("All", STATUSES),
    "waiting": ("To call", WAITING),
    "contacted": ("Called, outcome unknown", ("contacted",)),
    "closed": ("Closed", CLOSED),
}
"""The choices of the filter by status: its text, and the statuses."""
WORKBOOK: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@dataclass(frozen=True)
class Row:
    """A case in a list: its segments for people, the number of its last change, and what may be done to it."""

    case: Case
    segments: Sequence[tuple[str, str]]
    last_change: int
    actions: Sequence[Action]


@dataclass(frozen=True)
class Done:
    """A change that was made a moment ago, and whether it can be undone.

    `returns` says that it was undone just now and the worker has not put the case on the list again yet.
    """

    case: Case
    step: Step
    can_be_taken_back: bool
    returns: bool


@dataclass(frozen=True)
class SegmentFilter:
    """A filter by a segment: its parameter, its column, the values that occur, and the chosen one; empty for all."""

    parameter: str
    column: Column
    values: Sequence[str]
    chosen: str

    @property
    def name(self) -> str:
        """For people."""
        return segment_name(self.column)

    @property
    def choices(self) -> list[tuple[str, str]]:
        """The values to choose from, with their texts."""
        return [("", "All"), *((value, value_name(self.column, value)) for value in self.values)]


def read_list(visit: Visit, connection: psycopg.Connection) -> View:
    """Return today's call list."""
    cases = case_reading.call_list(connection)
    today = business_day(visit.now, visit.config.timezone)
    who = visit.choice("who", tuple(WHO), "all")
    filters = _segment_filters(visit, cases)
    matching = [case for case in cases if _is_chosen(case, visit, who, filters)]
    after = visit.whole_number("after", default=0, least=0, most=MOST_CASES)
    following = [case for case in matching if (case.rank or 0) > after]
    start, end = day_bounds(today, visit.config.timezone)
    common = _common(visit, connection, "/calls")
    done = common["done"]
    return View(
        "calls.html.j2",
        "Calls",
        {
            "rows": _rows(connection, following[:ROWS], visit),
            "matching": len(matching),
            "listed": len(cases),
            "first": len(matching) - len(following) + 1,
            "next": visit.address("/calls", after=following[ROWS - 1].rank, done=None) if len(following) > ROWS else "",
            "previous": visit.address("/calls", after=None, done=None) if after else "",
            "today": today,
            "list_day": cases[0].list_day if cases else None,
            "called": case_reading.called_between(connection, start, end),
            "capacity": worker_observations.cases_per_day(connection),
            "value": fsum(case.priority for case in cases),
            "who": who,
            "who_choices": list(WHO.items()),
            "segments": filters,
            "is_filtered": who != "all" or any(each.chosen for each in filters),
            **common,
        },
        refresh=RETURN_SECONDS if isinstance(done, Done) and done.returns else REFRESH_SECONDS,
    )


def read_mine(visit: Visit, connection: psycopg.Connection) -> View:
    """Return the cases that the user owns or has called."""
    show = visit.choice("show", tuple(SHOWN), "all")
    before = visit.whole_number("before", default=MOST_CASES, least=1, most=MOST_CASES)
    _, statuses = SHOWN[show]
    found = case_reading.of_person(connection, visit.user.name, statuses=statuses, before=before, limit=ROWS + 1)
    counts = case_reading.counts_of_person(connection, visit.user.name)
    known = counts.get("kept", 0) + counts.get("lost", 0)
    return View(
        "my_calls.html.j2",
        "My calls",
        {
            "rows": _rows(connection, found[:ROWS], visit),
            "counts": {name: sum(counts.get(each, 0) for each in of) for name, (_, of) in SHOWN.items()},
            "kept": counts.get("kept", 0),
            "lost": counts.get("lost", 0),
            "kept_share": counts.get("kept", 0) / known if known else None,
            "show": show,
            "show_choices": [(name, text) for name, (text, _) in SHOWN.items()],
            "next": visit.address("/calls/mine", before=found[ROWS - 1].case_id, done=None)
            if len(found) > ROWS
            else "",
            "previous": visit.address("/calls/mine", before=None, done=None) if before != MOST_CASES else "",
            **_common(visit, connection, "/calls/mine"),
        },
        refresh=REFRESH_SECONDS,
    )


def read_case(visit: Visit, connection: psycopg.Connection) -> View:
    """Return a case with its history.

    Raises:
        NotFoundError: there is no such case in the contact arm.
    """
    case_id = case_number(visit)
    case = case_reading.get(connection, case_id)
    if case is None:
        raise NotFoundError(f"There is no case {case_id}. Cases of the control group are not shown.")
    steps = steps_of(case_reading.history(connection, case_id))
    target = retention_cases.change_to_take_back(connection, case_id)
    return View(
        "case.html.j2",
        f"Case {case_id}",
        {
            "case": case,
            "row": Row(case, described(visit.schema, case.segments), steps[-1].change.change, possible_actions(case)),
            "steps": list(reversed(steps)),
            "taken_back": {each.change.takes_back for each in steps},
            "to_take_back": next((each for each in steps if each.change.change == target), None),
            "owners": case_reading.owners(connection),
            **_common(visit, connection, f"/calls/{case_id}"),
        },
        refresh=REFRESH_SECONDS,
    )


def export_csv(visit: Visit, connection: psycopg.Connection) -> Response:
    """Return today's list as CSV."""
    text = io.StringIO(newline="")
    spreadsheets.write_csv(text, case_reading.CELL_NAMES, _cells(connection))
    return _file(visit, text.getvalue().encode("utf-8-sig"), "csv", "text/csv; charset=utf-8")


def export_workbook(visit: Visit, connection: psycopg.Connection) -> Response:
    """Return today's list as an Excel workbook."""
    data = io.BytesIO()
    spreadsheets.write_workbook(data, case_reading.CELL_TITLES, _cells(connection))
    return _file(visit, data.getvalue(), "xlsx", WORKBOOK)


def _cells(connection: psycopg.Connection) -> list[list[spreadsheets.Cell]]:
    return [list(case.as_cells()) for case in case_reading.call_list(connection)]


def _file(visit: Visit, content: bytes, suffix: str, media_type: str) -> Response:
    day = business_day(visit.now, visit.config.timezone)
    headers = {"content-disposition": f'attachment; filename="calls-{day.isoformat()}.{suffix}"'}
    return Response(content, media_type=media_type, headers=headers)


def _common(visit: Visit, connection: psycopg.Connection, path: str) -> dict[str, object]:
    """Return what the templates of all these pages need."""
    return {
        "back": visit.address(path, done=None),
        "may_change": visit.may_change_cases,
        "me": visit.user.name,
        "done": _done(visit, connection),
        "has_money": visit.schema.money_at_risk is not None,
    }


def _done(visit: Visit, connection: psycopg.Connection) -> Done | None:
    """Return the change that the address names, while it is the last one of its case."""
    named = done_of(visit)
    if named is None:
        return None
    case_id, number = named
    case, steps = case_reading.get(connection, case_id), steps_of(case_reading.history(connection, case_id))
    if case is None or not steps or steps[-1].change.change != number:
        return None
    can_be_taken_back = retention_cases.change_to_take_back(connection, case_id) == number
    last = steps[-1].change
    returns = (
        last.takes_back is not None
        and case.status in WAITING
        and case.rank is None
        and visit.now - last.changed_at < RETURNS_WITHIN
    )
    return Done(case, steps[-1], can_be_taken_back and visit.may_change_cases, returns)


def _rows(connection: psycopg.Connection, cases: Sequence[Case], visit: Visit) -> list[Row]:
    last = case_reading.last_changes(connection, [case.case_id for case in cases])
    return [
        Row(
            case,
            described(visit.schema, case.segments),
            last.get(case.case_id, 0),
            possible_actions(case) if visit.may_change_cases else (),
        )
        for case in cases
    ]


def _segment_filters(visit: Visit, cases: Sequence[Case]) -> list[SegmentFilter]:
    """Return a filter for each segment of the schema, with the values that occur on the list."""
    filters = []
    for column in visit.schema.segments:
        parameter = f"in_{column.column}"
        values = [
            value
            for value in in_order(column, {case.segments.get(column.column) for case in cases})
            if value is not None
        ]
        chosen = visit.text(parameter)
        if chosen and chosen not in values:
            values.append(chosen)
        filters.append(SegmentFilter(parameter, column, values, chosen))
    return filters


def _is_chosen(case: Case, visit: Visit, who: str, filters: Sequence[SegmentFilter]) -> bool:
    if (who == "mine" and case.owner != visit.user.name) or (who == "nobody" and case.owner is not None):
        return False
    return all(not each.chosen or case.segments.get(each.column.column) == each.chosen for each in filters)


PAGES: Final[Sequence[Page]] = (
    Page("/calls", read_list, label="Calls"),
    Page("/calls/calls.csv", export_csv),
    Page("/calls/calls.xlsx", export_workbook),
    Page("/calls/mine", read_mine),
    Page("/calls/{case_id:number}", read_case, change=change),
)
