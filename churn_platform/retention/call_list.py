"""Today's call list: who is on it, and who enters it for the first time. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A case that waits for a call, or would in the control arm.

    Attributes:
        case_id: of the case.
        priority: expected value of the call.
        entered: whether the customer has entered a list within the cool-off.
    """

    case_id: int
    priority: float
    entered: bool


@dataclass(frozen=True)
class Place:
    """A case and its place on the list, 1 first. A control has the place that it would have had."""

    case_id: int
    rank: int


@dataclass(frozen=True)
class DayList:
    """The list, best first, and the cases that enter it now: those of the contact arm, then controls."""

    listed: Sequence[Place]
    entering: Sequence[Place]
    entering_controls: Sequence[Place]


def plan_list(
    contacts: Sequence[Waiting], controls: Sequence[Waiting], *, capacity: int, contacted_today: int
) -> DayList:
    """Return today's list: the cases with the highest priorities, as many as the team can still call today.

    Both arms enter alike. A control enters if its priority reaches that of the last case on the list, or if the list
    has room. A customer enters once in a cool-off. A call that is expected to cost more than it brings is never listed.

    Args:
        contacts: all waiting cases of the contact arm that may be among the best.
        controls: all cases of the control arm that may reach them.
        capacity: calls of the team in a day.
        contacted_today: how many customers were called today.
    """
    room = max(0, capacity - contacted_today)
    ranked = sorted(_worth_a_call(contacts), key=_order)[:room]
    last = ranked[-1].priority if len(ranked) == room and ranked else float("-inf")
    listed = [Place(case.case_id, rank) for rank, case in enumerate(ranked, start=1)]
    reaching = [case for case in _worth_a_call(controls) if case.priority >= last] if room else []
    return DayList(
        listed=listed,
        entering=[place for place, case in zip(listed, ranked, strict=True) if not case.entered],
        entering_controls=[
            Place(case.case_id, 1 + sum(_order(contact) < _order(case) for contact in ranked))
            for case in sorted(reaching, key=_order)
            if not case.entered
        ],
    )


def _worth_a_call(cases: Sequence[Waiting]) -> list[Waiting]:
    return [case for case in cases if case.priority >= 0]


def _order(case: Waiting) -> tuple[float, int]:
    """The highest priority first; of equal ones, the older case."""
    return -case.priority, case.case_id
