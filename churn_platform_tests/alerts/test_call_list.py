"""From a high-risk event to a message: the worker's duties on one database, without anything in between."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from churn_platform.alerts.call_list import read_call_list
from churn_platform.alerts.outbox import AlertOutbox
from churn_platform.alerts.policy import AlertPolicy, RetryPolicy
from churn_platform.alerts.sending import AlertSending
from churn_platform.alerts.targets import targets_of
from churn_platform.database import alert_outbox
from churn_platform.database.alert_outbox import Status
from churn_platform.settings import Settings
from churn_platform_tests.alerts.receivers import HttpReceiver
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    """The retention team's webhook."""
    with HttpReceiver() as receiver:
        yield receiver


def test_a_customer_at_risk_is_in_the_next_digest_and_alert_sent_follows(team: Team, receiver: HttpReceiver) -> None:
    team.restart(control_share=0.0, customer_url="https://crm.example.org/{customer_id}")
    team.commit(Scored(1, 0.9), Scored(2, 0.8), Scored(3, 0.2), explained=True)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(hour=8, minute=1)
    settings = Settings.from_variables({"ALERT_TARGETS": f"crm={receiver.url}"})
    policy = AlertPolicy.from_settings(settings)
    targets = targets_of(settings)
    outbox = AlertOutbox(targets.team, policy, read_call_list, keep_days=90, now=lambda: tomorrow)

    outbox.run(team.connection)
    assert receiver.requests == []
    team.later = tomorrow - datetime.now(UTC)
    team.follow()  # the list of that day
    outbox.run(team.connection)
    outbox.run(team.connection)
    AlertSending(targets.by_name["crm"], policy, RetryPolicy(attempts=1)).run(team.connection)

    ((_, _, body),) = receiver.requests
    assert body["subject"] == f"2 customers to call ({tomorrow:%Y-%m-%d})"
    assert [case["text"].split(":")[0] for case in body["cases"]] == ["Customer 1", "Customer 2"]
    assert [case["link"] for case in body["cases"]] == ["https://crm.example.org/1", "https://crm.example.org/2"]
    assert body["cases"][0]["text"].startswith("Customer 1: risk 90%.")
    assert alert_outbox.count(team.connection)[Status.SENT] == 1
    alerted = team.connection.execute(
        "select customer_id from high_risk_customers where alert_sent and alert_sent_at is not null order by 1"
    ).fetchall()
    assert alerted == [(1,), (2,)]


def test_controls_are_not_read(team: Team) -> None:
    team.restart(control_share=0.999)
    team.commit(*(Scored(number, 0.9) for number in range(1, 30)))
    day = datetime.now(UTC).date()

    controls = {
        case for (case,) in team.connection.execute("select case_id from retention_cases where arm = 'control'")
    }
    assert controls
    assert {each.case_id for each in read_call_list(team.connection, day)}.isdisjoint(controls)
