"""Cases that outcomes close, and the effect of calls, on the tables that the worker writes."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import psycopg
import pytest

from churn_platform.database import retention_cases, stored_outcomes
from churn_platform.database.retention_cases import Told
from churn_platform.monitoring import retention_effect
from churn_platform.retention.arm import CONTACT, CONTROL, Arm
from churn_platform.retention.effect import Effect, Entrant, State, effect_of, tally
from churn_platform_tests.features.customers import BANK
from churn_platform_tests.monitoring.conftest import Outcomes
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team, new_team

DAYS = 60
MINUTE = timedelta(minutes=1)


@pytest.fixture
def team(database: str) -> Iterator[Team]:
    """A team with a control group that calls 200 customers a day, and has called nobody."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield new_team(connection, BANK, control_share=0.3, cases_per_day=200, timezone=ZoneInfo("UTC"))


def told(customer: int, *, left: bool, after: timedelta = MINUTE) -> Told:
    """An outcome of a customer that is known some time from now."""
    return Told(customer, None, int(left), datetime.now(UTC) + after)


def close(team: Team, *outcomes: Told) -> dict[str, int]:
    """Close the cases that outcomes decide."""
    return retention_cases.close_by_outcomes(team.connection, BANK, outcomes)


def statuses(team: Team) -> dict[int, str]:
    """Return the status of each customer's case."""
    return {customer: status for customer, status, *_ in team.cases()}


def test_a_customer_who_left_closes_the_case_as_lost_whether_called_or_not(team: Team) -> None:
    team.restart(control_share=0.0)
    team.commit(Scored(1, 0.8), Scored(2, 0.8), Scored(3, 0.8))
    team.set_status(2, "contacted")

    assert close(team, told(1, left=True), told(2, left=True)) == {"kept": 0, "lost": 2}

    assert statuses(team) == {1: "lost", 2: "lost", 3: "open"}
    assert team.rows("select distinct reason from retention_cases where status = 'lost'") == [
        ("An outcome reports that the customer left.",)
    ]


def test_a_customer_who_stayed_closes_the_case_as_kept_only_after_a_call(team: Team) -> None:
    team.restart(control_share=0.0)
    team.commit(Scored(1, 0.8), Scored(2, 0.8), Scored(3, 0.8))
    team.set_status(2, "contacted")
    team.set_status(3, "contacted")

    closed = close(team, told(1, left=False), told(2, left=False), told(3, left=False, after=-MINUTE))

    assert closed == {"kept": 1, "lost": 0}
    assert statuses(team) == {1: "open", 2: "kept", 3: "contacted"}


def test_an_outcome_from_before_the_latest_event_and_the_earlier_of_two_close_nothing(team: Team) -> None:
    team.commit(Scored(1, 0.8), Scored(2, 0.8))

    assert close(team, told(1, left=True, after=-MINUTE)) == {"kept": 0, "lost": 0}
    assert close(team, told(2, left=True), told(2, left=False, after=2 * MINUTE)) == {"kept": 0, "lost": 0}
    assert close(team, told(9, left=True)) == {"kept": 0, "lost": 0}
    assert set(statuses(team).values()) == {"open"}


def test_an_outcome_of_an_event_closes_the_case_of_its_customer(team: Team) -> None:
    (event,) = team.ledger.commit([Scored(1, 0.8)])
    team.follow()

    assert close(team, Told(None, event, 1, datetime.now(UTC) + MINUTE)) == {"kept": 0, "lost": 1}


def test_ingested_outcomes_close_cases_in_their_transaction(outcome_topic: Outcomes) -> None:
    team = new_team(outcome_topic.connection, BANK)
    team.commit(Scored(1, 0.8), Scored(2, 0.8))
    team.set_status(2, "contacted")
    outcome_topic.create()
    now = (datetime.now(UTC) + MINUTE).isoformat()
    outcome_topic.send(
        {"CustomerId": 1, "true_churn_label": 1, "outcome_timestamp": now},
        {"CustomerId": 2, "true_churn_label": 0, "outcome_timestamp": now},
    )

    found = outcome_topic.ingest()

    assert (found.left, found.stayed, found.lost_cases, found.kept_cases) == (1, 1, 1, 1)
    assert statuses(team) == {1: "lost", 2: "kept"}


def store(team: Team, outcomes: Sequence[tuple[int, bool, timedelta]]) -> None:
    """Store outcomes: the customer, whether the customer left, and how long ago that was known."""
    (first,) = team.rows("select coalesce(max(kafka_offset), 0) from customer_outcomes")[0]
    with team.connection.transaction():
        stored_outcomes.insert_all(
            team.connection,
            (
                ("topic", 0, first + number, None, customer, int(left), datetime.now(UTC) - ago)
                for number, (customer, left, ago) in enumerate(outcomes, start=1)
            ),
        )


def compute(team: Team, *, outcome_days: int = DAYS) -> Effect:
    """Compute the effect as known now."""
    return retention_effect.compute(
        team.connection, outcome_days=outcome_days, customer_value=None, now=datetime.now(UTC)
    )


def test_one_simulated_team_on_the_tables(team: Team) -> None:
    generator = np.random.default_rng(1)
    customers = range(1, 301)
    team.commit(*(Scored(each, float(generator.uniform(0.7, 0.95)), balance=1_000.0) for each in customers))
    entered: dict[int, Arm] = dict(team.rows("select customer_id, arm from retention_list_entries"))
    assert set(entered.values()) == {CONTACT, CONTROL}
    called = {each for each, arm in entered.items() if arm == CONTACT and generator.random() < 0.8}
    for customer in called:
        team.set_status(customer, "contacted")
    team.wait(days=DAYS + 10)
    outcomes = {
        each: bool(generator.random() < (0.3 if each in called else 0.6))
        for each in entered
        if generator.random() < 0.9  # of the others the outcome is unknown
    }
    ages = {each: timedelta(days=30 if left else 5) for each, left in outcomes.items()}
    store(team, [(each, left, ages[each]) for each, left in outcomes.items()])

    found = compute(team)

    states: dict[int, State] = {each: "left" if outcomes[each] else "stayed" for each in outcomes}
    begins = dict(team.rows("select customer_id, entered_at from retention_list_entries"))
    entrants = [
        Entrant(arm, begins[each] + timedelta(days=DAYS), states.get(each, "unknown"), each in called, 1_000.0)
        for each, arm in entered.items()
    ]
    results = tally(entrants)
    expected = effect_of(results[CONTACT], results[CONTROL])
    assert found == expected
    assert found.reduction is not None
    assert found.reduction.value > 0.1
    (row,) = team.rows(
        "select date = (now() at time zone 'utc')::date, contact_entered, control_entered, contact_churn_rate, "
        "reduction, reduction_low, money_saved, cases_needed, conclusion, warnings from retention_effect "
        "where month = 'all' and segment = 'all'"
    )
    assert row[:3] == (True, results[CONTACT].entered, results[CONTROL].entered)
    assert row[3:7] == pytest.approx(
        (
            results[CONTACT].churn_rate,
            found.reduction.value,
            found.reduction.low,
            found.reduction.value * results[CONTACT].known * 1_000,
        )
    )
    assert row[7:] == (found.cases_needed, found.conclusion, list(found.warnings))
    by_segment = team.rows(
        "select sum(contact_entered), sum(control_entered) from retention_effect where segment = 'geography'"
    )
    assert by_segment == [(results[CONTACT].entered, results[CONTROL].entered)]
    by_month = team.rows("select sum(contact_left) from retention_effect where month <> 'all' and segment = 'all'")
    assert by_month == [(results[CONTACT].left,)]


def test_open_entries_and_early_leavers_do_not_count_yet(team: Team) -> None:
    team.commit(*(Scored(each, 0.8) for each in range(1, 21)))
    store(team, [(each, True, -MINUTE) for each in range(1, 11)])

    found = compute(team)

    assert found.contact.open + found.control.open == 20
    [(entered,)] = team.rows("select max(entered_at) from retention_list_entries")
    over = entered.astimezone(UTC) + timedelta(days=DAYS)
    assert f"The first result can be expected after {over:%Y-%m-%d}" in found.conclusion


def test_what_is_settled_stays_when_its_outcome_is_deleted(team: Team) -> None:
    team.commit(*(Scored(each, 0.8) for each in range(1, 61)))
    team.wait(days=DAYS + 1)
    store(team, [(each, each % 2 == 0, timedelta(days=20 if each % 2 == 0 else 0)) for each in range(1, 61)])
    before = compute(team)
    assert before.contact.known + before.control.known == 60

    team.connection.execute("delete from customer_outcomes")
    store(team, [(each, True, timedelta(0)) for each in range(1, 61)])  # left later

    assert compute(team) == before


def test_a_called_control_is_named(team: Team) -> None:
    team.commit(*(Scored(each, 0.8) for each in range(1, 61)))
    team.connection.execute(
        "update retention_cases set status = 'contacted' where case_id = ("
        "select min(case_id) from retention_cases where arm = 'control')"
    )
    team.wait(days=DAYS + 1)

    found = compute(team)

    assert found.control.contacted == 1
    assert "1 of" in found.warnings[0]
    assert "controls were called" in found.warnings[0]


def test_without_entries_there_is_one_row_that_says_so(team: Team) -> None:
    assert "no customer of the contact or the control arm has entered the call list" in compute(team).conclusion
    assert team.rows("select month, segment, value, contact_entered from retention_effect") == [
        ("all", "all", "all", 0)
    ]
    compute(team)
    assert team.rows("select count(*) from retention_effect") == [(1,)]
