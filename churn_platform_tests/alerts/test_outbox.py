"""The call list becomes messages: a digest, or one message for each case, never about a control, never too many."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from churn_platform.alerts.outbox import AlertOutbox, ListedCase, enqueue_cases
from churn_platform.alerts.policy import AlertPolicy
from churn_platform.database import alert_outbox, recovered_predictions
from churn_platform.database.alert_outbox import Status, StoredMessage
from churn_platform.database.recovered_predictions import PublishedPrediction
from churn_platform.settings import Settings

MORNING = datetime(2026, 11, 29, 8, 0, 5, tzinfo=UTC)
YESTERDAY = MORNING - timedelta(hours=20)


def listed(count: int, *, first: int = 1, **changes: Any) -> list[ListedCase]:
    return [
        ListedCase(
            **{
                "case_id": number,
                "arm": "contact",
                "rank": number,
                "priority": 1000.0 - number,
                "entered_at": YESTERDAY,
                "text": f"Customer {number}: risk 91 %",
                **changes,
            }
        )
        for number in range(first, first + count)
    ]


def enqueue(
    connection: psycopg.Connection,
    cases: Sequence[ListedCase],
    *,
    now: datetime = MORNING,
    targets: Sequence[str] = ("mail",),
    variables: Mapping[str, str] | None = None,
) -> int:
    def call_list(_: psycopg.Connection, day: date) -> Sequence[ListedCase]:
        assert day == now.date()
        return cases

    policy = AlertPolicy.from_settings(Settings.from_variables(variables or {}))
    return enqueue_cases(connection, call_list, targets=targets, policy=policy, now=now)


def messages(connection: psycopg.Connection) -> list[StoredMessage]:
    return alert_outbox.find(connection, statuses=list(Status))[::-1]


def cases_of(message: StoredMessage) -> list[int]:
    cases = message.payload["cases"]
    assert isinstance(cases, list)
    return [case["case_id"] for case in cases]


def test_a_digest_has_the_best_of_the_list_and_all_targets_get_it(connection: psycopg.Connection) -> None:
    link = "https://crm.example.org/2"
    cases = [*listed(1), *listed(1, first=2, link=link), *listed(3, first=3)]

    assert enqueue(connection, cases, targets=["mail", "crm"], variables={"CASES_PER_DAY": "3"}) == 3

    first, second = messages(connection)
    assert (first.kind, first.reference, {first.target, second.target}) == (
        "digest",
        "2026-11-29T08:00",
        {"mail", "crm"},
    )
    assert first.payload["subject"] == "3 customers to call (2026-11-29)"
    assert first.payload["text"] == (
        "1. Customer 1: risk 91 %\n   Case 1, priority 999.\n"
        "2. Customer 2: risk 91 %\n   Case 2, priority 998.\n   https://crm.example.org/2\n"
        "3. Customer 3: risk 91 %\n   Case 3, priority 997.\n\n'churn cases list' shows the current list."
    )
    assert cases_of(first) == [1, 2, 3]


def test_there_is_one_digest_for_each_time_of_day_and_a_customer_is_in_one_a_day(
    connection: psycopg.Connection,
) -> None:
    times = {"ALERT_DIGEST_AT": "08:00,13:00"}
    assert enqueue(connection, listed(2), variables=times) == 2
    assert enqueue(connection, listed(4), variables=times) == 0
    afternoon = MORNING + timedelta(hours=5)
    assert enqueue(connection, listed(4), now=afternoon, variables=times) == 2
    assert enqueue(connection, listed(4), now=afternoon + timedelta(hours=3), variables=times) == 0
    tomorrow = MORNING + timedelta(days=1)
    assert enqueue(connection, listed(4), now=tomorrow, variables=times) == 4

    assert [cases_of(each) for each in messages(connection)] == [[1, 2], [3, 4], [1, 2, 3, 4]]


def test_nothing_is_due_before_the_time_of_the_first_digest(connection: psycopg.Connection) -> None:
    assert enqueue(connection, listed(2), now=MORNING - timedelta(minutes=1)) == 0
    assert messages(connection) == []


def test_a_first_start_in_the_afternoon_sends_one_digest_the_next_morning(connection: psycopg.Connection) -> None:
    afternoon = MORNING + timedelta(hours=7)
    waiting = listed(50, entered_at=afternoon)

    assert enqueue(connection, waiting, now=afternoon + timedelta(minutes=1)) == 0
    assert enqueue(connection, waiting, now=MORNING + timedelta(days=1)) == 50
    assert len(messages(connection)) == 1


def test_a_digest_that_was_missed_is_written_later_the_same_day(connection: psycopg.Connection) -> None:
    assert enqueue(connection, listed(2), now=MORNING + timedelta(hours=9)) == 2


def test_in_the_mode_each_a_case_gets_one_message_and_the_day_is_limited(connection: psycopg.Connection) -> None:
    each = {"ALERT_MODE": "each", "CASES_PER_DAY": "3"}
    fresh = listed(5, entered_at=MORNING)

    assert enqueue(connection, fresh[:2], variables=each) == 2
    assert enqueue(connection, fresh, now=MORNING + timedelta(hours=1), variables=each) == 1
    assert enqueue(connection, fresh, now=MORNING + timedelta(hours=2), variables=each) == 0
    assert enqueue(connection, fresh, now=MORNING + timedelta(days=1), variables=each) == 2

    found = messages(connection)
    assert [each.reference for each in found] == ["case 1", "case 2", "case 3", "case 4", "case 5"]
    assert found[0].payload["subject"] == "Customer to call: number 1 of 2026-11-29"


def test_in_the_mode_each_nobody_is_told_about_a_case_that_was_listed_long_ago(connection: psycopg.Connection) -> None:
    old = listed(1, entered_at=MORNING - timedelta(hours=3))

    assert enqueue(connection, old, variables={"ALERT_MODE": "each", "ALERT_MAX_AGE": "2"}) == 0
    assert enqueue(connection, old, variables={"ALERT_MODE": "each", "ALERT_MAX_AGE": "4"}) == 1


@pytest.mark.parametrize("mode", ["digest", "each"])
def test_controls_are_never_alerted(connection: psycopg.Connection, mode: str) -> None:
    cases = [*listed(2), *listed(2, first=3, arm="control")]

    assert enqueue(connection, cases, variables={"ALERT_MODE": mode}) == 2
    assert {case for each in messages(connection) for case in cases_of(each)} == {1, 2}
    assert (
        enqueue(
            connection,
            listed(2, first=3, arm="control"),
            now=MORNING + timedelta(days=1),
            variables={"ALERT_MODE": mode},
        )
        == 0
    )


@pytest.mark.parametrize("mode", ["digest", "each"])
def test_without_targets_nothing_is_written(connection: psycopg.Connection, mode: str) -> None:
    assert enqueue(connection, listed(2), targets=[], variables={"ALERT_MODE": mode}) == 0
    assert enqueue(connection, listed(2), variables={"ALERT_MODE": mode}) == 2


def test_the_duty_writes_what_is_due_and_deletes_what_is_old(connection: psycopg.Connection) -> None:
    policy = AlertPolicy.from_settings(Settings())
    duty = AlertOutbox(["mail"], policy, lambda _, __: listed(1), keep_days=90, now=lambda: MORNING)
    alert_outbox.add(
        connection, kind="operator", reference="old", payload={"subject": "", "text": ""}, targets=["a", "b"]
    )
    connection.execute("update alert_outbox set created_at = now() - interval '91 days'")
    connection.execute("update alert_outbox set status = 'sent' where target = 'a'")

    assert not duty.run(connection)

    # What failed or waits stays, however old it is.
    assert [(each.reference, each.target) for each in messages(connection)] == [
        ("old", "b"),
        ("2026-11-29T08:00", "mail"),
    ]


def recovered(connection: psycopg.Connection, event_id: UUID) -> None:
    """Record an event whose prediction was published before the database was restored to an earlier state."""
    published = PublishedPrediction(event_id, 0.9, 1, "lost", 0, 0, MORNING, message_key=b"6")
    with connection.transaction():
        recovered_predictions.stage(connection, [published])
        recovered_predictions.add_lost(connection, since=None)


def test_what_may_have_been_sent_before_a_restore_is_in_doubt(connection: psycopg.Connection) -> None:
    event_id = uuid4()
    recovered(connection, event_id)
    recovery = recovered_predictions.latest_recovery(connection)
    assert recovery is not None
    digest = {"ALERT_DIGEST_AT": f"{recovery:%H:%M}", "BUSINESS_TIMEZONE": "UTC"}
    each = {"ALERT_MODE": "each"}
    after = recovery + timedelta(days=1)

    for now in (recovery, after):
        enqueue(connection, listed(1, entered_at=now - timedelta(hours=20)), now=now, variables=digest)
    enqueue(connection, listed(1, first=7, entered_at=after, event_ids=[event_id]), now=after, variables=each)
    enqueue(connection, listed(1, first=8, entered_at=after, event_ids=[uuid4()]), now=after, variables=each)

    assert {message.reference: message.status for message in messages(connection)} == {
        f"{recovery:%Y-%m-%dT%H:%M}": Status.IN_DOUBT,
        f"{after:%Y-%m-%dT%H:%M}": Status.PENDING,
        "case 7": Status.IN_DOUBT,
        "case 8": Status.PENDING,
    }
    doubted = alert_outbox.find(connection, statuses=[Status.IN_DOUBT])
    assert all("restored to an earlier state" in (message.last_error or "") for message in doubted)
