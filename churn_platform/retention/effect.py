"""Whether calls help: both arms compared as they were assigned, called or not. Pure.

A customer enters once per cool-off, on first reaching a day's list; controls enter as contacts do. So the arms differ
by chance and by the calls only. Comparing called with uncalled customers instead would show who can be reached by
phone. A customer counts when OUTCOME_DAYS have passed since the entry and it is known whether the customer left within
them. Entries whose time is not over, and those whose outcome is unknown, are counted apart: a customer who left early
would otherwise count before one who stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import fsum, sqrt
from typing import Final, Literal

from churn_platform.retention.arm import CONTACT, CONTROL, Arm

State = Literal["open", "unknown", "stayed", "left"]

Z_95: Final = 1.959964
"""97.5 % quantile of the normal distribution, for a two-sided interval of 95 %."""
FEW_CUSTOMERS: Final = 20
"""An arm with fewer known outcomes is called too small. The interval is valid for it too, and says hardly anything."""
MOST_CUSTOMERS: Final = 10_000_000
"""No team has more. If as many would not be enough, the number that is needed is unknown."""


@dataclass(frozen=True)
class Known:
    """What was known about a customer at a time: whether the customer has left."""

    at: datetime
    left: bool


@dataclass(frozen=True)
class Entrant:
    """A customer who entered the list.

    Attributes:
        arm: as assigned.
        over_at: when the customer's time is over.
        state: what is known at the end of the customer's time.
        contacted: whether the customer was called, whatever the arm.
        money: that is lost with the customer; None if it is unknown.
    """

    arm: Arm
    over_at: datetime
    state: State
    contacted: bool
    money: float | None


@dataclass(frozen=True)
class ArmResult:
    """One arm.

    Attributes:
        entered: customers who entered.
        open: of them, those whose time is not over.
        unknown: whose time is over, and whose outcome is unknown.
        stayed: who are known to have stayed.
        left: who are known to have left.
        contacted: of those who entered, how many were called.
        money: of those whose outcome is known, the sum of what is lost with them where that is known.
        with_money: of how many of them it is known.
        first_over_at: when the time of the customer who entered first is over; None if nobody has entered.
    """

    entered: int = 0
    open: int = 0
    unknown: int = 0
    stayed: int = 0
    left: int = 0
    contacted: int = 0
    money: float = 0.0
    with_money: int = 0
    first_over_at: datetime | None = None

    @property
    def known(self) -> int:
        """Number of customers whose outcome is known."""
        return self.stayed + self.left

    @property
    def over(self) -> int:
        """Number of customers whose time is over."""
        return self.known + self.unknown

    @property
    def churn_rate(self) -> float | None:
        """Share of the known customers who left, 0..1; None if there is none."""
        return self.left / self.known if self.known else None


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return the estimate of a multiple that is not negative."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Effect:
    """The comparison of both arms.

    Attributes:
        contact: the arm that is called.
        control: the arm that is never called.
        reduction: churn rate of the controls minus that of the contacts; above 0, calls help. None without known
            outcomes of both arms.
        customers_saved: what that means for the contacts whose outcome is known: customers who stayed because of calls.
        money_saved: what is lost with that many customers; None if no amount is known.
        cases_needed: known outcomes of both arms together that are needed until the interval excludes 0, if the rates
            and the arms' shares stay as they are; 0 if it does now, None if that cannot be said.
        warnings: what makes the comparison invalid or weak, as sentences.
        conclusion: what the comparison says, in a sentence.
    """

    contact: ArmResult
    control: ArmResult
    reduction: Interval | None
    customers_saved: Interval | None
    money_saved: Interval | None
    cases_needed: int | None
    warnings: tuple[str, ...]
    conclusion: str


def state_at_end(entered_at: datetime, window: timedelta, known: Iterable[Known], *, now: datetime) -> State:
    """Return what is known of a customer at the end of the time after entering the list.

    Args:
        entered_at: when the customer entered.
        window: the time in which the customer has to leave to count as lost.
        known: what was known about the customer, in any order. What was known before the entry does not matter.
        now: until when outcomes are known.

    Returns:
        "open" until the time is over. Then "left" if the last that was known within it is that the customer left;
        else "stayed" if anything is known later, also that the customer left then (late churn); else "unknown".
    """
    end = entered_at + window
    if now < end:
        return "open"
    within = [each for each in known if entered_at < each.at <= end]
    if within and max(within, key=lambda each: each.at).left:
        return "left"
    return "stayed" if any(end <= each.at <= now for each in known) else "unknown"


def tally(entrants: Iterable[Entrant]) -> dict[Arm, ArmResult]:
    """Return the result of each arm."""
    by_arm: dict[Arm, list[Entrant]] = {CONTACT: [], CONTROL: []}
    for each in entrants:
        by_arm[each.arm].append(each)
    return {arm: _result(members) for arm, members in by_arm.items()}


def _result(members: Sequence[Entrant]) -> ArmResult:
    states = Counter(each.state for each in members)
    money = [each.money for each in members if each.money is not None and each.state in ("stayed", "left")]
    return ArmResult(
        entered=len(members),
        open=states["open"],
        unknown=states["unknown"],
        stayed=states["stayed"],
        left=states["left"],
        contacted=sum(each.contacted for each in members),
        money=fsum(money),
        with_money=len(money),
        first_over_at=min((each.over_at for each in members), default=None),
    )


def effect_of(contact: ArmResult, control: ArmResult, *, customer_value: float | None = None) -> Effect:
    """Compare the arms.

    Args:
        contact: the arm that is called.
        control: the arm that is never called.
        customer_value: money that is lost with a customer of whom no amount is known; None if there is no such amount.
    """
    warnings = tuple(_warnings(contact, control))
    if not contact.known or not control.known:
        return Effect(contact, control, None, None, None, None, warnings, _nothing_known(contact, control))
    reduction = newcombe_interval(control.left, control.known, contact.left, contact.known)
    saved = reduction.times(contact.known)
    worth = contact.money / contact.with_money if contact.with_money else customer_value
    return Effect(
        contact=contact,
        control=control,
        reduction=reduction,
        customers_saved=saved,
        money_saved=None if worth is None else saved.times(worth),
        cases_needed=_cases_needed(contact, control, reduction),
        warnings=warnings,
        conclusion=_conclusion(reduction),
    )


def newcombe_interval(left_1: float, of_1: float, left_2: float, of_2: float) -> Interval:
    """Return the difference of two independent rates, left_1 / of_1 - left_2 / of_2, with its 95 % interval.

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of
    eleven methods", Statistics in Medicine 17 (1998), 873-890: method 10, the hybrid score interval without continuity
    correction. It combines Wilson's intervals of both rates, and is valid for small numbers and for rates near 0 and 1.
    """
    rate_1, rate_2 = left_1 / of_1, left_2 / of_2
    low_1, high_1 = wilson_interval(left_1, of_1)
    low_2, high_2 = wilson_interval(left_2, of_2)
    difference = rate_1 - rate_2
    return Interval(
        difference,
        difference - sqrt((rate_1 - low_1) ** 2 + (high_2 - rate_2) ** 2),
        difference + sqrt((high_1 - rate_1) ** 2 + (rate_2 - low_2) ** 2),
    )


def wilson_interval(left: float, of: float) -> tuple[float, float]:
    """Return the 95 % score interval of a rate, within 0..1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927), 209-212.
    """
    rate, z2 = left / of, Z_95**2
    middle = (rate + z2 / (2 * of)) / (1 + z2 / of)
    half = Z_95 * sqrt(rate * (1 - rate) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def _excludes_zero(interval: Interval) -> bool:
    return interval.low > 0 or interval.high < 0


def _cases_needed(contact: ArmResult, control: ArmResult, reduction: Interval) -> int | None:
    """Return how many more known outcomes the interval needs, with rates and shares as they are."""
    if _excludes_zero(reduction):
        return 0
    if reduction.value == 0:
        return None
    known = contact.known + control.known

    def says_something(total: int) -> bool:
        factor = total / known
        return _excludes_zero(
            newcombe_interval(
                control.left * factor, control.known * factor, contact.left * factor, contact.known * factor
            )
        )

    if not says_something(MOST_CUSTOMERS):
        return None
    return _first(says_something, known, MOST_CUSTOMERS) - known


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the first number above `low` for which a condition holds that holds for `high` and then for all above."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _warnings(contact: ArmResult, control: ArmResult) -> Iterable[str]:
    if control.contacted:
        yield (
            f"{control.contacted:,} of {control.entered:,} controls were called, so calls seem to help less than they "
            f"do. Find out who calls customers who are on no list."
        )
    if contact.entered and control.entered == 0:
        yield "Nobody is in the control arm, so nothing can be compared. Set CONTROL_SHARE above 0."
    if contact.entered and not contact.contacted and contact.over:
        yield "No customer of the contact arm was called, so no effect of calls can show."
    yield from _unequal_knowledge(contact, control)
    few = [
        f"{result.known:,} in the {arm} arm"
        for arm, result in ((CONTACT, contact), (CONTROL, control))
        if result.entered and result.known < FEW_CUSTOMERS
    ]
    if few:
        yield (
            f"Few outcomes are known: {' and '.join(few)}. The interval is wide until there are {FEW_CUSTOMERS} of "
            f"each."
        )


def _unequal_knowledge(contact: ArmResult, control: ArmResult) -> Iterable[str]:
    """Warn if outcomes are known of one arm only, or so much more often that this is not by chance."""
    if not contact.over or not control.over:
        return
    shares = [f"{result.known / result.over:.0%} of the {arm}s" for arm, result in _arms(contact, control)]
    remedy = "Send the outcomes of all customers, called or not."
    if bool(contact.known) != bool(control.known):
        yield f"Outcomes are known for one arm only: {' and '.join(shares)}. {remedy}"
    elif _excludes_zero(newcombe_interval(contact.known, contact.over, control.known, control.over)):
        yield (
            f"Outcomes are known more often in one arm: {' and '.join(shares)}. This may bias the comparison. {remedy}"
        )


def _arms(contact: ArmResult, control: ArmResult) -> Sequence[tuple[Arm, ArmResult]]:
    return ((CONTACT, contact), (CONTROL, control))


def _nothing_known(contact: ArmResult, control: ArmResult) -> str:
    """Return what is missing for a comparison, and when it can be expected."""
    arms = _arms(contact, control)
    empty = [arm for arm, result in arms if not result.entered]
    if empty:
        return (
            f"Nothing to compare yet: no customer of the {' or the '.join(empty)} arm has entered the call list. The "
            f"first result can be expected OUTCOME_DAYS after customers of both arms have."
        )
    waiting = [(arm, result.first_over_at) for arm, result in arms if not result.over]
    if waiting:
        until = max(moment for _, moment in waiting if moment is not None)
        return (
            f"Nothing to compare yet: no customer of the {' or the '.join(arm for arm, _ in waiting)} arm entered the "
            f"call list more than OUTCOME_DAYS ago. The first result can be expected after {until:%Y-%m-%d}, if "
            f"outcomes of both arms are sent."
        )
    unknown = " and ".join(f"the {result.over:,} of the {arm} arm" for arm, result in arms if not result.known)
    return (
        f"Nothing to compare yet: OUTCOME_DAYS are over for {unknown}, and no outcome of them is known. Send the "
        f"outcomes of all customers, called or not. The next computation has the first result."
    )


def _conclusion(reduction: Interval) -> str:
    value, low, high = (100 * each for each in (reduction.value, reduction.low, reduction.high))
    of = f"{value:+.1f} percentage points (95 %: {low:+.1f} to {high:+.1f})"
    if reduction.low > 0:
        return f"Calls help: they reduce churn by {of}."
    if reduction.high < 0:
        return f"Calls harm: they change the share of customers who stay by {of}."
    return f"Not yet known: the reduction of churn is {of}, which includes none."
