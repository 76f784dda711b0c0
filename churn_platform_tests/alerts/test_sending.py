"""Messages are claimed before they are sent, and end as sent, failed or in doubt; nothing is repeated silently."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import SecretStr

from churn_platform.alerts.delivery import SENT, Delivery, Result
from churn_platform.alerts.messages import Message
from churn_platform.alerts.policy import AlertPolicy, RetryPolicy
from churn_platform.alerts.sending import AlertSending
from churn_platform.alerts.targets import Target
from churn_platform.database import advisory_locks, alert_outbox
from churn_platform.database.alert_outbox import CaseEntry, Kind, Status, StoredMessage
from churn_platform.database.connections import connect
from churn_platform.settings import Settings
from churn_platform_tests.alerts.receivers import Behaviour, HttpReceiver, SmtpReceiver
from churn_platform_tests.waiting import wait_until

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
NOT_SENT = Delivery(Result.NOT_SENT, "Nobody is there.")


class Scripted:
    """A sender whose results are given; the last one repeats."""

    def __init__(self, *results: Delivery | Exception) -> None:
        self.results = list(results)
        self.sent: list[Message] = []

    def send(self, message: Message) -> Delivery:
        """Return the next result."""
        self.sent.append(message)
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


def duty(
    sender: Scripted | None = None,
    *,
    url: str = "https://unused.org",
    name: str = "crm",
    first_pause: float = 0.0,
    **variables: str,
) -> AlertSending:
    return AlertSending(
        Target(name, SecretStr(url)),
        AlertPolicy.from_settings(Settings.from_variables(variables)),
        RetryPolicy(attempts=3, first_pause=first_pause),
        sender=sender,
        now=lambda: datetime.now(UTC) if first_pause else NOW,
    )


def write(
    connection: psycopg.Connection,
    *references: str,
    targets: Sequence[str] = ("crm",),
    kind: Kind = "case",
    expires_at: datetime | None = None,
) -> None:
    for reference in references:
        payload = {"subject": f"About {reference}", "text": "Call."}
        alert_outbox.add(
            connection, kind=kind, reference=reference, payload=payload, targets=targets, expires_at=expires_at
        )


def stored(connection: psycopg.Connection) -> list[StoredMessage]:
    """Return all messages, the oldest first."""
    return alert_outbox.find(connection, statuses=list(Status), dismissed=True)[::-1]


def run_until_idle(duty: AlertSending, connection: psycopg.Connection) -> None:
    while duty.run(connection):
        pass


def test_each_target_gets_each_message_once(connection: psycopg.Connection) -> None:
    with HttpReceiver() as http, SmtpReceiver() as smtp:
        write(connection, "1", "2", "1", targets=["crm", "mail"])

        run_until_idle(duty(url=http.url), connection)
        run_until_idle(duty(url=smtp.url, name="mail"), connection)

    keys = {str(each.idempotency_key): each.target for each in stored(connection)}
    assert {each.status for each in stored(connection)} == {Status.SENT}
    assert http.kept == {key: 1 for key, target in keys.items() if target == "crm"}
    assert smtp.kept == {key: 1 for key, target in keys.items() if target == "mail"}
    assert len(keys) == 4


def test_a_message_is_committed_as_sending_before_it_is_sent(database: str, connection: psycopg.Connection) -> None:
    write(connection, "1")
    seen: list[Status] = []

    class Looking(Scripted):
        def send(self, message: Message) -> Delivery:
            with connect(database, application_name="test", autocommit=True) as other:
                seen.extend(each.status for each in stored(other))
            return super().send(message)

    duty(Looking(SENT)).run(connection)

    assert seen == [Status.SENDING]
    assert [each.status for each in stored(connection)] == [Status.SENT]


def test_a_message_that_was_not_taken_is_tried_again_with_the_same_key_until_the_last_attempt(
    connection: psycopg.Connection,
) -> None:
    write(connection, "1")
    sender = Scripted(NOT_SENT)
    sending = duty(sender)

    for _ in range(5):
        sending.run(connection)

    (message,) = stored(connection)
    assert (message.status, message.attempts) == (Status.FAILED, 3)
    assert message.last_error == "Nobody is there. It was the last of 3 attempts."
    assert [each.key for each in sender.sent] == [message.idempotency_key] * 3


def test_the_next_attempt_waits_as_long_as_the_receiver_asks(connection: psycopg.Connection) -> None:
    write(connection, "1")
    duty(Scripted(Delivery(Result.NOT_SENT, "Busy.", wait=120))).run(connection)

    (message,) = stored(connection)
    assert (message.status, message.next_attempt) == (Status.PENDING, NOW + timedelta(seconds=120))


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (Delivery(Result.REFUSED, "No such mailbox."), Status.FAILED),
        (Delivery(Result.IN_DOUBT, "No answer."), Status.IN_DOUBT),
        (ValueError("s3cret"), Status.IN_DOUBT),
    ],
)
def test_what_is_refused_or_in_doubt_is_not_tried_again(
    connection: psycopg.Connection, result: Delivery | Exception, status: Status
) -> None:
    write(connection, "1")
    sender = Scripted(result)
    sending = duty(sender)

    run_until_idle(sending, connection)
    run_until_idle(sending, connection)

    (message,) = stored(connection)
    assert (message.status, len(sender.sent)) == (status, 1)
    assert "s3cret" not in str(message.last_error)


def test_while_a_target_cannot_be_reached_the_pauses_grow_and_others_are_not_affected(
    connection: psycopg.Connection,
) -> None:
    write(connection, *map(str, range(20)), targets=["crm", "mail"])
    broken, working = duty(Scripted(NOT_SENT), first_pause=60), duty(Scripted(SENT), name="mail")

    pauses = []
    for _ in range(5):
        assert not broken.run(connection)
        pauses.append(broken.interval)
    run_until_idle(working, connection)

    assert pauses == [5, 10, 20, 40, 60]
    assert alert_outbox.count(connection, target="mail")[Status.SENT] == 20
    assert alert_outbox.count(connection, target="crm")[Status.PENDING] == 20


def test_operators_are_told_first_and_also_in_quiet_hours(connection: psycopg.Connection) -> None:
    write(connection, "1", "2")
    write(connection, "2026-11-29T08:00", kind="digest")
    write(connection, "7/began", kind="operator")
    sender = Scripted(SENT)

    run_until_idle(duty(sender, QUIET_HOURS="11:00-13:00"), connection)
    assert [each.reference for each in sender.sent] == ["7/began"]
    run_until_idle(duty(sender, QUIET_HOURS="13:00-14:00"), connection)
    assert [each.reference for each in sender.sent] == ["7/began", "1", "2", "2026-11-29T08:00"]


def test_a_message_that_is_too_old_fails_and_is_not_sent(connection: psycopg.Connection) -> None:
    write(connection, "old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    write(connection, "new", expires_at=datetime.now(UTC) + timedelta(hours=1))
    sender = Scripted(SENT)

    run_until_idle(duty(sender), connection)
    assert alert_outbox.expire(connection) == 1

    assert [each.reference for each in sender.sent] == ["new"]
    old, _ = stored(connection)
    assert (old.status, old.last_error) == (Status.FAILED, "It is older than ALERT_MAX_AGE.")


def claim(connection: psycopg.Connection) -> StoredMessage:
    """Claim a message as a sender does."""
    number = advisory_locks.lock_sender(connection)
    message = alert_outbox.claim(connection, target="crm", kinds=["case"], sender=number)
    assert message is not None
    return message


def test_a_message_whose_sender_died_is_in_doubt_and_one_that_is_being_sent_is_not(
    database: str, connection: psycopg.Connection
) -> None:
    write(connection, "1", "2")
    with connect(database, application_name="living", autocommit=True) as living:
        claim(living)
        with connect(database, application_name="dying", autocommit=True) as dying:
            claim(dying)
            assert alert_outbox.doubt_abandoned(connection) == 0

        wait_until(lambda: alert_outbox.doubt_abandoned(connection) == 1, what="the end of the session")
        assert [each.status for each in stored(connection)] == [Status.SENDING, Status.IN_DOUBT]


def test_a_sender_that_lost_its_session_records_the_result_in_the_next(
    database: str, connection: psycopg.Connection
) -> None:
    write(connection, "1")
    lost = connect(database, application_name="lost", autocommit=True)

    class Losing(Scripted):
        def send(self, message: Message) -> Delivery:
            lost.close()
            return super().send(message)

    sending = duty(Losing(SENT))
    with pytest.raises(psycopg.OperationalError):
        sending.run(lost)
    wait_until(lambda: alert_outbox.doubt_abandoned(connection) == 1, what="the end of the session")
    run_until_idle(sending, connection)

    assert [each.status for each in stored(connection)] == [Status.SENT]


def test_a_late_result_does_not_replace_what_an_operator_decided(database: str, connection: psycopg.Connection) -> None:
    write(connection, "1")
    with connect(database, application_name="gone", autocommit=True) as gone:
        late = claim(gone)
    wait_until(lambda: alert_outbox.doubt_abandoned(connection) == 1, what="the end of the session")
    alert_outbox.retry(connection, [late.id])

    assert not alert_outbox.record_sent(connection, late)
    assert [each.status for each in stored(connection)] == [Status.PENDING]


def test_operators_retry_confirm_and_dismiss(connection: psycopg.Connection) -> None:
    write(connection, "1", "2", "3", "4")
    run_until_idle(
        duty(Scripted(Delivery(Result.IN_DOUBT), Delivery(Result.REFUSED), Delivery(Result.IN_DOUBT), SENT)), connection
    )
    first, second, third, fourth = (each.id for each in stored(connection))

    assert alert_outbox.confirm(connection, [first, second, fourth]) == [first]
    assert alert_outbox.retry(connection, [first, second, fourth]) == [second]
    assert alert_outbox.dismiss(connection, [third, fourth]) == [third]
    run_until_idle(duty(Scripted(SENT)), connection)

    assert [(each.status, each.dismissed_at is not None) for each in stored(connection)] == [
        (Status.SENT, False),
        (Status.SENT, False),
        (Status.FAILED, True),
        (Status.SENT, False),
    ]
    assert alert_outbox.unsettled(connection, sending_seconds=0) == []


def high_risk(connection: psycopg.Connection, count: int) -> list[UUID]:
    """Add rows to high_risk_customers; return their events."""
    ids = [uuid4() for _ in range(count)]
    for event_id in ids:
        connection.execute(
            "insert into high_risk_customers (event_id, batch, customer_id, risk_score, geography, gender, age,"
            " balance, detected_at) values (%s, 'b', 1, 0.9, 'France', 'Female', 40, 1, now())",
            (event_id,),
        )
    return ids


def alerted(connection: psycopg.Connection) -> set[UUID]:
    rows = connection.execute(
        "select event_id from high_risk_customers where alert_sent and alert_sent_at is not null"
    ).fetchall()
    return {event_id for (event_id,) in rows}


def test_alert_sent_follows_the_first_target_that_has_the_message(connection: psycopg.Connection) -> None:
    events = high_risk(connection, 4)
    write(connection, "case 1", "case 2", "case 3", targets=["crm", "mail"])
    entries = [CaseEntry(1, "case 1", events[:2]), CaseEntry(2, "case 2", events[2:3]), CaseEntry(3, "case 3", [])]
    alert_outbox.add_cases(connection, "case", NOW.date(), entries, at=NOW)

    duty(Scripted(NOT_SENT)).run(connection)
    assert alerted(connection) == set()
    duty(Scripted(SENT), name="mail").run(connection)
    assert alerted(connection) == set(events[:2])
    sending = duty(Scripted(Delivery(Result.IN_DOUBT)), name="mail")
    sending.run(connection)
    assert alerted(connection) == set(events[:2])
    in_doubt = [each.id for each in stored(connection) if each.status is Status.IN_DOUBT]
    alert_outbox.confirm(connection, in_doubt)
    assert alerted(connection) == set(events[:3])


def test_several_senders_of_one_target_share_its_messages(database: str, connection: psycopg.Connection) -> None:
    write(connection, *map(str, range(30)))
    first, second = Scripted(SENT), Scripted(SENT)
    duties = [duty(first), duty(second)]
    with connect(database, application_name="other", autocommit=True) as other:
        while duties[0].run(connection) | duties[1].run(other):
            pass

    assert sorted(each.reference for each in first.sent + second.sent) == sorted(map(str, range(30)))
    assert first.sent
    assert second.sent


def test_logs_name_the_target_and_no_address(connection: psycopg.Connection, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(connection, "case 1", "case 2")
    with HttpReceiver(lambda _: Behaviour.ACCEPT if not receiver.kept else Behaviour.REFUSE) as receiver:
        run_until_idle(duty(url=receiver.url + "/s3cret"), connection)

    assert "Sent case case 1 to crm." in caplog.text
    assert "case case 2 to crm, is refused: The webhook answered with status 410." in caplog.text
    assert "s3cret" not in caplog.text
    assert "s3cret" not in repr(connection.execute("select to_jsonb(o)::text from alert_outbox o").fetchall())
