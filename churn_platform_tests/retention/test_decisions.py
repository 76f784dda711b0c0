"""The pure rules of retention: arms, priorities, days, the list, transitions and sentences."""

import secrets
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_platform.retention.arm import CONTROL, arm_of
from churn_platform.retention.business_day import business_day, day_bounds
from churn_platform.retention.call_list import Place, Waiting, plan_list
from churn_platform.retention.contact_policy import ContactPolicy, OpenCase, Opening, Score, Update, decide
from churn_platform.retention.priority import CallValue, priority
from churn_platform.retention.reasons import sentence, sentences
from churn_platform.retention.transitions import CLOSED, STATUSES, is_allowed
from churn_platform.schema.customer_schema import CustomerSchema

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
POLICY = ContactPolicy(threshold=0.7, cool_off=timedelta(days=30), expiry=timedelta(days=14))
HIGH = Score(risk=0.8, event_timestamp=NOW, kafka_offset=5, last_contact=None, last_loss=None, do_not_contact=False)


# Arms


def test_the_share_of_controls_is_as_asked_for() -> None:
    key = secrets.token_bytes(32)
    controls = sum(arm_of(number, key=key, control_share=0.1) == CONTROL for number in range(100_000))

    assert controls == pytest.approx(10_000, abs=500)  # five standard deviations


def test_a_larger_share_keeps_the_controls_of_a_smaller_one() -> None:
    key = bytes(32)

    def controls(share: float) -> set[int]:
        return {number for number in range(5_000) if arm_of(number, key=key, control_share=share) == CONTROL}

    assert controls(0.0) == set()
    assert controls(0.05) < controls(0.1) < controls(0.5) < controls(1.0) == set(range(5_000))


def test_another_key_chooses_other_controls_and_an_id_is_the_same_as_its_text() -> None:
    one, other = bytes(32), bytes(31) + b"1"

    def controls(key: bytes) -> set[int]:
        return {number for number in range(2_000) if arm_of(number, key=key, control_share=0.5) == CONTROL}

    assert len(controls(one) & controls(other)) == pytest.approx(500, abs=120)
    assert all(
        arm_of(number, key=one, control_share=0.5) == arm_of(str(number), key=one, control_share=0.5)
        for number in range(100)
    )


# Priorities


def test_the_priority_is_the_expected_value_of_a_call() -> None:
    value = CallValue(cost=20, success_rate=0.25, customer_value=1_000)

    assert priority(0.8, 2_000, value) == pytest.approx(0.8 * 0.25 * 2_000 - 20)
    assert priority(0.8, None, value) == pytest.approx(0.8 * 0.25 * 1_000 - 20)
    assert priority(0.8, 2_000, CallValue()) == pytest.approx(1_600)  # the expected loss
    assert priority(0.8, None, CallValue()) == pytest.approx(0.8)


# Days


@pytest.mark.parametrize(
    ("day", "start", "hours"),
    [
        (date(2026, 3, 29), datetime(2026, 3, 28, 23, tzinfo=UTC), 23),
        (date(2026, 10, 25), datetime(2026, 10, 24, 22, tzinfo=UTC), 25),
        (date(2026, 11, 24), datetime(2026, 11, 23, 23, tzinfo=UTC), 24),
    ],
)
def test_a_day_of_the_team_has_the_hours_that_daylight_saving_time_leaves_it(
    day: date, start: datetime, hours: int
) -> None:
    assert day_bounds(day, BERLIN) == (start, start + timedelta(hours=hours))


@pytest.mark.parametrize(
    ("timezone", "day", "start"),
    [
        # In Beirut the clocks go from 0:00 to 1:00, in Havana from 1:00 back to 0:00.
        ("Asia/Beirut", date(2026, 3, 29), datetime(2026, 3, 28, 22, tzinfo=UTC)),
        ("America/Havana", date(2026, 11, 1), datetime(2026, 11, 1, 4, tzinfo=UTC)),
    ],
)
def test_a_midnight_that_is_skipped_or_occurs_twice_begins_the_day_once(
    timezone: str, day: date, start: datetime
) -> None:
    zone = ZoneInfo(timezone)

    assert day_bounds(day, zone)[0] == start
    assert business_day(start, zone) == day
    assert business_day(start - timedelta(seconds=1), zone) == day - timedelta(days=1)


@given(
    st.integers(1_000_000_000, 2_200_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Havana"]),
)
def test_every_moment_is_within_the_bounds_of_its_day(moment: datetime, timezone: str) -> None:
    zone = ZoneInfo(timezone)
    start, end = day_bounds(business_day(moment, zone), zone)

    assert start <= moment < end


# Decisions


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (HIGH, Opening()),
        (replace(HIGH, risk=0.7), Opening()),
        (replace(HIGH, risk=0.699), None),
        (replace(HIGH, do_not_contact=True), None),
        (replace(HIGH, last_contact=NOW - timedelta(days=29)), None),
        (replace(HIGH, last_contact=NOW - timedelta(days=30)), Opening()),
        (replace(HIGH, last_loss=NOW - timedelta(days=29)), None),
        (replace(HIGH, last_loss=NOW - timedelta(days=30)), Opening()),
        (replace(HIGH, last_contact=NOW - timedelta(days=31), last_loss=NOW - timedelta(days=2)), None),
        (replace(HIGH, event_timestamp=NOW - timedelta(days=14)), None),
    ],
)
def test_who_gets_a_case(score: Score, expected: Opening | None) -> None:
    assert decide(score, None, POLICY, now=NOW) == expected


@pytest.mark.parametrize(
    ("waits", "risk", "event_age", "offset", "expected"),
    [
        (True, 0.9, 0, 5, Update()),
        (True, 0.57, 0, 5, Update()),
        (True, 0.55, 0, 5, Update("The risk fell to 55%.")),
        (False, 0.1, 0, 5, Update()),
        (True, 0.1, 61, 99, None),  # an event from before the latest
        (True, 0.1, 60, 3, None),  # the same time, but an earlier offset
        (True, 0.9, 60, 4, None),  # the event that the case knows
        (True, 0.1, 60, 4, Update("The risk fell to 10%.")),  # the same, which the case got while it was contacted
        (True, 0.9, 60, 5, Update()),
    ],
)
def test_what_a_score_does_to_a_case(
    waits: bool, risk: float, event_age: int, offset: int, expected: Update | None
) -> None:
    case = OpenCase(waits=waits, event_timestamp=NOW - timedelta(seconds=60), kafka_offset=4)
    score = replace(HIGH, risk=risk, event_timestamp=NOW - timedelta(seconds=event_age), kafka_offset=offset)

    assert decide(score, case, POLICY, now=NOW) == expected


# The list


def waiting(*priorities: float, first: int = 1, entered: bool = False) -> list[Waiting]:
    """Return cases with these priorities and consecutive numbers."""
    return [Waiting(first + number, worth, entered) for number, worth in enumerate(priorities)]


def test_the_list_has_the_best_cases_and_of_equal_ones_the_older() -> None:
    found = plan_list(waiting(5, 9, 5, 7), [], capacity=3, contacted_today=0)

    assert found.listed == [Place(2, 1), Place(4, 2), Place(1, 3)]
    assert found.entering == found.listed


@pytest.mark.parametrize(("contacted", "length"), [(0, 3), (1, 2), (3, 0), (5, 0)])
def test_calls_of_today_use_up_the_capacity(contacted: int, length: int) -> None:
    found = plan_list(waiting(1, 2, 3, 4), waiting(9, first=10), capacity=3, contacted_today=contacted)

    assert len(found.listed) == length
    assert bool(found.entering_controls) == (length > 0)  # when nobody can enter, no control enters


def test_a_control_enters_if_it_reaches_the_last_of_a_full_list() -> None:
    found = plan_list(waiting(9, 7, 5, 3), waiting(8, 5, 4, first=10), capacity=3, contacted_today=0)

    assert found.entering_controls == [Place(10, 2), Place(11, 4)]


def test_every_control_enters_while_the_list_has_room() -> None:
    found = plan_list(waiting(9), waiting(1, 0, first=10), capacity=3, contacted_today=0)

    assert found.entering_controls == [Place(10, 2), Place(11, 2)]


def test_who_has_entered_stays_listed_and_does_not_enter_again() -> None:
    found = plan_list(waiting(9, entered=True), waiting(9, first=10, entered=True), capacity=3, contacted_today=0)

    assert found.listed == [Place(1, 1)]
    assert (found.entering, found.entering_controls) == ([], [])


def test_a_call_that_costs_more_than_it_brings_is_not_listed() -> None:
    found = plan_list(waiting(-1, 0), waiting(-1, first=10), capacity=3, contacted_today=0)

    assert found.listed == [Place(2, 1)]
    assert found.entering_controls == []


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(0, 40), st.integers(0, 40))
def test_both_arms_enter_alike(priorities: list[float], capacity: int, contacted: int) -> None:
    """A control with the priority of a contact enters if the contact does."""
    contacts = waiting(*priorities)
    found = plan_list(contacts, waiting(*priorities, first=1_000), capacity=capacity, contacted_today=contacted)

    worth = {case.case_id: case.priority for case in contacts}
    entered = [worth[place.case_id] for place in found.entering]
    controls = [worth[place.case_id - 999] for place in found.entering_controls]
    assert all(entered.count(each) <= controls.count(each) for each in entered)
    assert set(entered) == set(controls)


# Transitions


def test_the_database_allows_the_same_transitions(database: str) -> None:
    pairs = [(before, after) for before, after in product(STATUSES, STATUSES) if before != after]
    with psycopg.connect(database) as connection:
        allowed = {
            pair
            for pair in pairs
            if connection.execute("select case_status_allowed(%s, %s)", pair).fetchone() == (True,)
        }

    assert allowed == {(before, after) for before, after in pairs if is_allowed(before, after)}
    assert not any(is_allowed(before, after) for before in CLOSED for after in STATUSES)


# Sentences


def test_reasons_are_sentences_with_units_and_only_those_that_raise_the_risk(bank_schema: CustomerSchema) -> None:
    reasons = [
        {"feature": "Balance", "value": 125_510.4, "contribution": 1.2},
        {"feature": "NumOfProducts", "value": 3.0, "contribution": 1.1},
        {"feature": "Age", "value": 58.0, "contribution": -0.9},
        {"feature": "IsActiveMember", "value": 0.0, "contribution": 0.5},
        {"feature": "Tenure", "value": 2.0, "contribution": 0.1},
    ]

    assert sentences(reasons, bank_schema) == [
        "Balance of 125,510 euros raises the risk",
        "Number of products of 3 raises the risk",
        "Active member: no, which raises the risk",
    ]


def test_a_reason_that_lowers_the_risk_is_a_sentence_of_its_own(bank_schema: CustomerSchema) -> None:
    assert sentence({"feature": "Tenure", "value": 3.0, "contribution": -0.4}, bank_schema) == (
        "Time with the bank of 3 years lowers the risk"
    )
    assert sentence({"feature": "Gender", "value": "Male", "contribution": -0.1}, bank_schema) == (
        "Gender: Male, which lowers the risk"
    )


def test_texts_missing_values_and_columns_that_left_the_schema_are_named_too(bank_schema: CustomerSchema) -> None:
    reasons: list[dict[str, object]] = [
        {"feature": "Geography", "value": "Germany", "contribution": 1.2},
        {"feature": "Age", "value": None, "contribution": 0.4},
        {"feature": "LoyaltyPoints", "value": 12.5, "contribution": 0.2},
    ]

    assert sentences(reasons, bank_schema) == [
        "Country: Germany, which raises the risk",
        "Unknown age raises the risk",
        "Loyalty points of 12.5 raises the risk",
    ]
