"""Whether calls help: the comparison of both arms, its interval, and what makes it invalid."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_platform.retention.arm import CONTACT, CONTROL, Arm
from churn_platform.retention.call_list import Waiting, plan_list
from churn_platform.retention.effect import (
    ArmResult,
    Effect,
    Entrant,
    Known,
    State,
    effect_of,
    newcombe_interval,
    state_at_end,
    tally,
    wilson_interval,
)

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = 90 * DAY
LATER = START + 365 * DAY


def known(day: float, *, left: bool) -> Known:
    """What was known some days after the entry."""
    return Known(START + day * DAY, left)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([], "unknown"),
        ([known(30, left=True)], "left"),
        ([known(90, left=True)], "left"),
        ([known(91, left=True)], "stayed"),  # late churn
        ([known(90, left=False)], "stayed"),
        ([known(200, left=False)], "stayed"),
        ([known(30, left=False)], "unknown"),  # nothing is known about the rest of the time
        ([known(30, left=False), known(80, left=True)], "left"),
        ([known(30, left=True), known(60, left=False)], "unknown"),  # corrected
        ([known(30, left=True), known(60, left=False), known(91, left=False)], "stayed"),
        ([known(-1, left=True)], "unknown"),  # before the entry
        ([known(0, left=True), known(100, left=False)], "stayed"),
        ([known(400, left=False)], "unknown"),  # after now
    ],
)
def test_the_state_is_that_at_the_end_of_the_time(outcomes: list[Known], state: str) -> None:
    assert state_at_end(START, WINDOW, outcomes, now=LATER) == state
    assert state_at_end(START, WINDOW, outcomes[::-1], now=LATER) == state


def test_an_entry_is_open_until_its_time_is_over_even_if_the_customer_has_left() -> None:
    outcomes = [known(30, left=True)]

    assert state_at_end(START, WINDOW, outcomes, now=START + WINDOW - DAY) == "open"
    assert state_at_end(START, WINDOW, outcomes, now=START + WINDOW) == "left"


# Table II of Newcombe (1998), rows of method 10.
@pytest.mark.parametrize(
    ("left_1", "of_1", "left_2", "of_2", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0),
        (10, 10, 0, 10, 0.6075, 1.0),
    ],
)
def test_the_interval_is_that_of_the_publication(
    left_1: int, of_1: int, left_2: int, of_2: int, low: float, high: float
) -> None:
    found = newcombe_interval(left_1, of_1, left_2, of_2)

    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert found.value == pytest.approx(left_1 / of_1 - left_2 / of_2)


@given(st.integers(1, 1000), st.integers(1, 1000), st.data())
def test_an_interval_holds_its_estimate_and_turns_with_the_arms(of_1: int, of_2: int, data: st.DataObject) -> None:
    left_1, left_2 = data.draw(st.integers(0, of_1)), data.draw(st.integers(0, of_2))

    found, turned = newcombe_interval(left_1, of_1, left_2, of_2), newcombe_interval(left_2, of_2, left_1, of_1)

    assert -1.000001 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1.000001
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low))
    low, high = wilson_interval(left_1, of_1)
    assert 0 <= low <= left_1 / of_1 + 1e-9
    assert left_1 / of_1 - 1e-9 <= high <= 1


def arm(left: int, stayed: int, **others: float) -> ArmResult:
    """An arm with these outcomes; all of its contacts were called."""
    entered = left + stayed + int(others.get("open", 0)) + int(others.get("unknown", 0))
    given = {"entered": entered, "contacted": entered, **others}
    return ArmResult(left=left, stayed=stayed, **given)  # type: ignore[arg-type]  # whole numbers, and money


def control(left: int, stayed: int, **others: float) -> ArmResult:
    """A control arm with these outcomes."""
    return arm(left, stayed, **{"contacted": 0, **others})


def test_customers_and_money_saved_follow_from_the_difference_of_the_rates() -> None:
    found = effect_of(arm(100, 900, money=500_000.0, with_money=500), control(60, 240))

    assert found.reduction is not None
    assert found.customers_saved is not None
    assert found.money_saved is not None
    assert found.reduction.value == pytest.approx(0.1)
    assert found.customers_saved.value == pytest.approx(100)
    assert found.money_saved.value == pytest.approx(100_000)
    assert found.money_saved.low == pytest.approx(found.reduction.low * 1_000_000)
    assert found.cases_needed == 0
    assert found.conclusion.startswith("Calls help: they reduce churn by +10.0 percentage points (95 %: +5.")
    assert found.warnings == ()


def test_without_amounts_a_customer_is_worth_the_setting_or_nothing_is_said() -> None:
    contacts, controls = arm(100, 900), control(60, 240)

    with_value = effect_of(contacts, controls, customer_value=50.0).money_saved

    assert with_value is not None
    assert with_value.value == pytest.approx(5_000)
    assert effect_of(contacts, controls).money_saved is None


def test_it_says_how_many_more_cases_are_needed() -> None:
    contacts, controls = arm(20, 80), control(8, 22)

    found = effect_of(contacts, controls)

    assert found.conclusion.startswith("Not yet known")
    assert found.cases_needed is not None
    enough, too_few = ((130 + found.cases_needed + more) / 130 for more in (0, -1))
    for factor, says_something in ((enough, True), (too_few, False)):
        interval = newcombe_interval(8 * factor, 30 * factor, 20 * factor, 100 * factor)
        assert (interval.low > 0) == says_something
    assert effect_of(arm(20, 80), control(10, 40)).cases_needed is None  # no difference at all
    assert effect_of(arm(999_999, 4_000_000), control(100_000, 400_000)).cases_needed is None  # too small to ever show


@pytest.mark.parametrize(
    ("contacts", "controls", "warning"),
    [
        (arm(100, 900), control(60, 240, contacted=3), "3 of 300 controls were called"),
        (arm(5, 20), control(4, 10), "Few outcomes are known: 14 in the control arm"),
        (arm(5, 9), control(4, 10), "14 in the contact arm and 14 in the control arm"),
        (arm(100, 900), control(0, 0, unknown=300), "for one arm only: 100% of the contacts and 0% of the controls"),
        (arm(100, 300, unknown=600), control(60, 240), "more often in one arm: 40% of the contacts and 100% of"),
        (arm(100, 900), ArmResult(), "Nobody is in the control arm"),
        (arm(100, 900, contacted=0), control(60, 240), "No customer of the contact arm was called"),
    ],
)
def test_misuse_is_named(contacts: ArmResult, controls: ArmResult, warning: str) -> None:
    assert any(warning in each for each in effect_of(contacts, controls).warnings)


def test_equal_shares_of_unknown_outcomes_are_no_misuse() -> None:
    found = effect_of(arm(90, 710, unknown=200), control(60, 180, unknown=60))

    assert found.warnings == ()


def test_before_anything_is_known_nothing_is_compared() -> None:
    for contacts, controls, conclusion in (
        (
            ArmResult(),
            ArmResult(),
            "no customer of the contact or the control arm has entered the call list. The first result can be "
            "expected OUTCOME_DAYS after customers of both arms have.",
        ),
        (arm(3, 10), ArmResult(), "no customer of the control arm has entered the call list."),
        (
            replace(arm(0, 0, open=50), first_over_at=START),
            replace(control(0, 0, open=5), first_over_at=START + 2 * DAY),
            "no customer of the contact or the control arm entered the call list more than OUTCOME_DAYS ago. The first "
            f"result can be expected after {START + 2 * DAY:%Y-%m-%d}, if outcomes of both arms are sent.",
        ),
        (
            arm(3, 10),
            replace(control(0, 0, open=5), first_over_at=START),
            f"no customer of the control arm entered the call list more than OUTCOME_DAYS ago. The first result can "
            f"be expected after {START:%Y-%m-%d}",
        ),
        (
            arm(3, 10),
            control(0, 0, unknown=5),
            "OUTCOME_DAYS are over for the 5 of the control arm, and no outcome of them is known. Send the outcomes",
        ),
    ):
        found = effect_of(contacts, controls)
        assert (found.reduction, found.customers_saved, found.cases_needed) == (None, None, None)
        assert found.conclusion.startswith(f"Nothing to compare yet: {conclusion}")


def test_open_and_unknown_are_counted_apart() -> None:
    states: tuple[State, ...] = ("open", "unknown", "stayed", "left")
    entrants = [
        Entrant(CONTACT, START + number * DAY, state, contacted=True, money=10.0) for number, state in enumerate(states)
    ]
    entrants += [Entrant(CONTROL, START, "stayed", contacted=False, money=None)]

    found = tally(entrants)

    assert found[CONTACT] == ArmResult(4, 1, 1, 1, 1, contacted=4, money=20.0, with_money=2, first_over_at=START)
    assert found[CONTROL] == ArmResult(entered=1, stayed=1, first_over_at=START)


@dataclass(frozen=True)
class Team:
    """A simulated team: of the called customers who would leave, a share stays.

    Every day some cases are opened, and the team calls some of the customers on its list; the others stay on it.
    """

    success_rate: float
    days: int = 8
    cases_per_day: int = 90
    capacity: int = 40
    control_share: float = 0.2
    called_share: float = 0.8
    missing_share: float = 0.15
    late_churn: float = 0.2

    def work(self, seed: int) -> tuple[Effect, dict[Arm, list[float]]]:
        """Return the effect that is found, and the probabilities of leaving of the customers who count, by arm."""
        generator = np.random.default_rng(seed)
        count = self.days * self.cases_per_day
        is_control = generator.random(count) < self.control_share
        risk = generator.beta(4, 3, count)
        priority = risk * generator.lognormal(0, 0.6, count)
        reached = generator.random(count) < self.called_share
        chance, leaves_at, late = generator.random(count), generator.random(count), generator.random(count)
        missing = generator.random(count) < self.missing_share
        now = START + (self.days - 2) * DAY + WINDOW  # the time of the last two days' customers is not over
        entered: set[int] = set()
        waiting: set[int] = set()
        entrants: list[Entrant] = []
        probabilities: dict[Arm, list[float]] = {CONTACT: [], CONTROL: []}
        for day in range(self.days):
            waiting.update(range(day * self.cases_per_day, (day + 1) * self.cases_per_day))
            cases = [(case, Waiting(case, float(priority[case]), entered=case in entered)) for case in waiting]
            plan = plan_list(
                [each for case, each in cases if not is_control[case]],
                [each for case, each in cases if is_control[case]],
                capacity=self.capacity,
                contacted_today=0,
            )
            for arm_, places in ((CONTACT, plan.entering), (CONTROL, plan.entering_controls)):
                for case in (place.case_id for place in places):
                    entered.add(case)
                    called = arm_ == CONTACT and bool(reached[case])
                    leaving = float(risk[case]) * (1 - self.success_rate * called)
                    entry = START + day * DAY
                    known = []
                    if not missing[case]:
                        if chance[case] < leaving:
                            known = [Known(entry + leaves_at[case] * WINDOW, left=True)]
                        elif late[case] < self.late_churn:
                            known = [Known(entry + (1 + leaves_at[case]) * WINDOW, left=True)]
                        else:
                            known = [Known(entry + WINDOW, left=False)]
                    state = state_at_end(entry, WINDOW, known, now=now + WINDOW if day < self.days - 2 else now)
                    entrants.append(Entrant(arm_, entry + WINDOW, state, called, None))
                    if state in ("stayed", "left"):
                        probabilities[arm_].append(leaving)
            waiting -= {place.case_id for place in plan.listed if reached[place.case_id]}
        results = tally(entrants)
        return effect_of(results[CONTACT], results[CONTROL]), probabilities


@pytest.mark.parametrize(
    "seeds", [300, pytest.param(2_000, marks=pytest.mark.slow)], ids=lambda seeds: f"{seeds} teams"
)
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds: int) -> None:
    team = Team(success_rate=0.4)

    found = [team.work(seed) for seed in range(seeds)]

    means = {each: np.mean(np.concatenate([of_arm[each] for _, of_arm in found])) for each in (CONTACT, CONTROL)}
    truth = means[CONTROL] - means[CONTACT]
    assert 0.1 < truth < 0.3
    intervals = [effect.reduction for effect, _ in found if effect.reduction is not None]
    assert len(intervals) == seeds
    coverage = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    margin = 0 if seeds == 2_000 else 0.02
    assert 0.935 - margin <= coverage <= 0.975 + margin
    assert np.mean([interval.value for interval in intervals]) == pytest.approx(truth, abs=0.01)
    assert all(effect.contact.open and effect.contact.unknown for effect, _ in found)


@pytest.mark.parametrize(
    "seeds", [300, pytest.param(2_000, marks=pytest.mark.slow)], ids=lambda seeds: f"{seeds} teams"
)
def test_calls_without_effect_seldom_seem_to_have_one(seeds: int) -> None:
    team = Team(success_rate=0.0)

    alarms = [
        effect.reduction is not None and (effect.reduction.low > 0 or effect.reduction.high < 0)
        for effect, _ in map(team.work, range(seeds))
    ]

    assert np.mean(alarms) <= (0.065 if seeds == 2_000 else 0.085)
