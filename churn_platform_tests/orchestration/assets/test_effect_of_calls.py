"""Whether calls help, through the whole platform: events, cases, calls and outcomes of a team with a known effect.

churn_platform_tests/retention/test_effect.py shows with thousands of such teams that the interval is right. This one
shows that the platform finds what the pure functions find.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.database import retention_effect
from churn_platform.database.retention_effect import Comparison
from churn_platform.monitoring.retention_effect import ALL, COUNTS
from churn_platform.retention.arm import CONTACT, CONTROL, Arm, arm_of
from churn_platform.retention.business_day import business_day
from churn_platform.retention.call_list import Waiting, plan_list
from churn_platform.retention.effect import Effect, Entrant, Known, effect_of, state_at_end, tally
from churn_platform.retention.priority import CallValue, priority
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers
from churn_platform.settings import settings
from churn_platform.simulation.producer import Row, rows_of
from churn_platform_tests.orchestration.assets.graph import Assets, materializations
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until
from churn_platform_tests.worker.processes import worker_process
from churn_platform_tests.worker.teams import grow_older

KEY = bytes(range(32))
"""The secret of the arms, so that each run of the test has the same ones."""
FIRST = 15_600_000
"""Id of the first customer; the others follow."""
THRESHOLD = 0.3
CONTROL_SHARE = 0.3
CAPACITY = 50
DAYS = 6
CUSTOMERS_PER_DAY = 500
WINDOW = timedelta(days=60)

LEAVING = 0.6  # probability that a customer who was not called leaves
SUCCESS_RATE = 0.6  # share of the called customers who would leave and stay
REACHED_SHARE = 0.8
MISSING_SHARE = 0.15
LATE_CHURN = 0.2  # share of the others who leave after the window
EFFECT = LEAVING * SUCCESS_RATE * REACHED_SHARE  # the arms are compared as assigned, so calls that reach nobody count

runner = CliRunner(env={"COLUMNS": "200"})


def churn(*arguments: str) -> Any:
    """Return the JSON of a command."""
    outcome = runner.invoke(app, [*arguments, "--json"])
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


@dataclass(frozen=True)
class Entry:
    """A customer who enters the call list."""

    arm: Arm
    called: bool


@dataclass
class Simulation:
    """The team and its customers, drawn from a seed: who is reached, who leaves when, and what becomes known.

    Attributes:
        seed: of the random values.
        money: what is lost with each customer who is at risk.
        waiting: the priorities of the customers with a case that waits for a call.
        entries: the customers who have entered a list.
        told: the customers whose outcome was sent.
    """

    seed: int = 1
    money: dict[int, float] = field(default_factory=dict)
    waiting: dict[int, float] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        generator = np.random.default_rng(self.seed)
        count = DAYS * CUSTOMERS_PER_DAY
        self._reached = generator.random(count) < REACHED_SHARE
        self._chance, self._when, self._late = (generator.random(count) for _ in range(3))
        self._missing = generator.random(count) < MISSING_SHARE

    def arm(self, customer: int) -> Arm:
        """Return the arm of a customer."""
        return arm_of(customer, key=KEY, control_share=CONTROL_SHARE)

    def is_reached(self, customer: int) -> bool:
        """Return whether the customer answers the phone."""
        return bool(self._reached[customer - FIRST])

    def plan_day(self, at_risk: Sequence[tuple[int, float, float]]) -> list[int]:
        """Return the customers on the list of a day, best first, and call them.

        Args:
            at_risk: customers who are at risk since this day: id, risk score, and what is lost with the customer.
        """
        self.money |= {customer: money for customer, _, money in at_risk}
        self.waiting |= {customer: priority(risk, money, CallValue()) for customer, risk, money in at_risk}
        cases = {arm: [each for each in self.waiting if self.arm(each) == arm] for arm in (CONTACT, CONTROL)}
        plan = plan_list(
            *(
                [Waiting(each, self.waiting[each], entered=each in self.entries) for each in cases[arm]]
                for arm in (CONTACT, CONTROL)
            ),
            capacity=CAPACITY,
            contacted_today=0,
        )
        listed = [place.case_id for place in plan.listed]
        for place in plan.entering:
            self.entries[place.case_id] = Entry(CONTACT, called=self.is_reached(place.case_id))
        for place in plan.entering_controls:
            self.entries[place.case_id] = Entry(CONTROL, called=False)
        for customer in filter(self.is_reached, listed):
            del self.waiting[customer]
        return listed

    def outcome(self, customer: int, entered_at: datetime) -> Known | None:
        """Return what becomes known of a customer who entered the list at this time; None if nothing does."""
        number = customer - FIRST
        if self._missing[number]:
            return None
        leaving = LEAVING * (1 - SUCCESS_RATE * self.entries[customer].called)
        if self._chance[number] < leaving:
            return Known(entered_at + self._when[number] * WINDOW, left=True)
        if self._late[number] < LATE_CHURN:
            return Known(entered_at + (1 + self._when[number]) * WINDOW, left=True)
        return Known(entered_at + WINDOW, left=False)

    def new_outcomes(self, entered: Mapping[int, datetime], *, now: datetime) -> dict[int, Known]:
        """Return what has become known by now and was not returned before, by customer.

        Args:
            entered: when each customer has entered the list.
            now: until when outcomes are known.
        """
        known = {customer: self.outcome(customer, entered[customer]) for customer in self.entries.keys() - self.told}
        new = {customer: each for customer, each in known.items() if each is not None and each.at <= now}
        self.told |= new.keys()
        return new

    def effect(self, entered: Mapping[int, datetime], *, now: datetime) -> Effect:
        """Return the effect of the calls as known now; the arguments are those of `new_outcomes`."""
        entrants = []
        for customer, entry in self.entries.items():
            entered_at = entered[customer]
            known = self.outcome(customer, entered_at)
            state = state_at_end(entered_at, WINDOW, [] if known is None else [known], now=now)
            entrants.append(Entrant(entry.arm, entered_at + WINDOW, state, entry.called, self.money[customer]))
        results = tally(entrants)
        return effect_of(results[CONTACT], results[CONTROL])


@pytest.fixture
def assets_with_team(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> Assets:
    """A platform whose settings are those of the team, and whose arms are the same in each run."""
    for name, value in {
        "HIGH_RISK_THRESHOLD": THRESHOLD,
        "CONTROL_SHARE": CONTROL_SHARE,
        "CASES_PER_DAY": CAPACITY,
        "OUTCOME_DAYS": WINDOW.days,
        "BUSINESS_TIMEZONE": zone_where_it_is_noon(),
    }.items():
        monkeypatch.setenv(name, str(value))
    settings.cache_clear()
    assets.connection.execute("insert into retention_keys (key) values (%s)", (KEY,))
    return assets


def zone_where_it_is_noon() -> str:
    """Return a time zone in which no day ends while a test runs."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"  # the sign is that of POSIX: Etc/GMT-2 is two hours ahead of UTC


@pytest.mark.slow
def test_the_platform_finds_the_effect_that_the_calls_of_a_team_have(
    assets_with_team: Assets, bank_schema: CustomerSchema, tmp_path: Path
) -> None:
    assets = assets_with_team
    rows = rows_of(generate_customers(DAYS * CUSTOMERS_PER_DAY + 500, seed=3), bank_schema)
    team = Simulation()
    for day in range(DAYS):
        if day:
            grow_older(assets.connection, timedelta(days=1))
        at_risk = score(assets, rows, range(day * CUSTOMERS_PER_DAY, (day + 1) * CUSTOMERS_PER_DAY))
        with worker_process(tmp_path / f"worker of day {day}"):
            wait_until(lambda: has_list(assets), what="today's call list")
            listed = churn("cases", "list", "--limit", "1000")["cases"]
            assert [case["customer_id"] for case in listed] == team.plan_day(at_risk)
            for case in listed:
                if team.is_reached(case["customer_id"]):
                    churn("cases", "contact", str(case["case_id"]), "--by", "ana")

    # The time of those who entered on the last two days is not over yet, and nobody can know who leaves after it.
    grow_older(assets.connection, WINDOW - timedelta(days=2))
    early = compute(assets, team, tmp_path)
    assert early.contact_open > 0
    assert early.control_open > 0
    assert early.contact_unknown > 0

    grow_older(assets.connection, WINDOW + timedelta(days=2))
    found = compute(assets, team, tmp_path)

    assert (found.contact_open, found.control_open) == (0, 0)
    assert found.contact_unknown > 0
    assert found.control_contacted == 0
    assert found.reduction_low is not None
    assert found.reduction_high is not None
    assert 0 < found.reduction_low < EFFECT < found.reduction_high
    assert found.conclusion.startswith("Calls help")


def score(assets: Assets, rows: Sequence[Row], numbers: range) -> list[tuple[int, float, float]]:
    """Send an event of each of these customers and score them; return those at risk, as `plan_day` expects them."""
    ids = [FIRST + number for number in numbers]
    values = [{name: value for name, value in rows[number].items() if name != "Exited"} for number in numbers]
    assets.send(*(event(0, **{**each, "CustomerId": customer}) for customer, each in zip(ids, values, strict=True)))

    def is_scored() -> bool:
        assets.stream()
        (count,) = assets.connection.execute(
            "select count(*) from churn_predictions where customer_id = any(%s)", (ids,)
        ).fetchall()[0]
        return bool(count == len(ids))

    wait_until(is_scored, what="predictions of all customers")
    return assets.connection.execute(
        "select customer_id, risk_score::double precision, balance::double precision from churn_predictions "
        "where customer_id = any(%s) and risk_score >= %s order by customer_id",
        (ids, THRESHOLD),
    ).fetchall()


def has_list(assets: Assets) -> bool:
    """Return whether customers have entered today's list, which the worker plans in the same transaction."""
    today = business_day(datetime.now(UTC), ZoneInfo(settings().retention.business_timezone))
    return assets.connection.execute("select from retention_list_entries where day = %s", (today,)).rowcount > 0


def compute(assets: Assets, team: Simulation, folder: Path) -> Comparison:
    """Send what has become known, compute the effect, compare it with that of the simulation, and return it."""
    rows = assets.connection.execute("select customer_id, arm, entered_at from retention_list_entries").fetchall()
    assert {customer: arm for customer, arm, _ in rows} == {each: entry.arm for each, entry in team.entries.items()}
    entered = {customer: entered_at.astimezone(UTC) for customer, _, entered_at in rows}
    now = datetime.now(UTC)
    outcomes = team.new_outcomes(entered, now=now)
    file = folder / "outcomes.json"
    file.write_text(
        "".join(
            json.dumps(
                {"CustomerId": customer, "true_churn_label": int(each.left), "outcome_timestamp": each.at.isoformat()}
            )
            + "\n"
            for customer, each in outcomes.items()
        )
    )
    assert churn("outcomes", "send", "--from", str(file))["sent"] == len(outcomes)
    ingested = materializations(assets.run("outcomes_job"), "customer_outcomes")[None]
    assert (ingested["outcomes"], ingested["rejected"]) == (len(outcomes), 0)

    result = assets.run("retention_effect_job")

    expected = team.effect(entered, now=now)
    assert expected.reduction is not None
    assert expected.money_saved is not None
    (found,) = [each for each in retention_effect.latest(assets.connection) if (each.month, each.segment) == (ALL, ALL)]
    for arm, arm_result in ((CONTACT, expected.contact), (CONTROL, expected.control)):
        for name in COUNTS:
            assert getattr(found, f"{arm}_{name}") == getattr(arm_result, name), (arm, name)
        assert getattr(found, f"{arm}_churn_rate") == arm_result.churn_rate
    interval = expected.reduction
    assert (found.reduction, found.reduction_low, found.reduction_high) == (interval.value, interval.low, interval.high)
    assert found.money_saved == pytest.approx(expected.money_saved.value)
    assert (found.cases_needed, found.conclusion, found.warnings) == (
        expected.cases_needed,
        expected.conclusion,
        list(expected.warnings),
    )
    (metadata,) = materializations(result, "retention_effect").values()
    assert metadata["conclusion"] == expected.conclusion
    return found
