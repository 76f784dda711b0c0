"""Services through Apprise: one attempt, no redirects, and doubt unless nothing was written."""

import logging
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from uuid import uuid4

import psutil
import pytest
from pydantic import SecretStr

from churn_platform.alerts.delivery import Delivery, Result
from churn_platform.alerts.exceptions import TargetError
from churn_platform.alerts.messages import Message
from churn_platform.alerts.targets import Target, make_sender
from churn_platform_tests.alerts.receivers import Behaviour, HttpReceiver


@pytest.fixture
def message() -> Message:
    """A message of many lines."""
    return Message(
        key=uuid4(),
        kind="digest",
        reference="2026-11-29T08:00",
        subject="Customers to call",
        text="\n".join(f"{number}. Customer {number}" for number in range(1, 4000)),
        created_at=datetime(2026, 11, 29, 8, tzinfo=UTC),
    )


def target(url: str) -> Target:
    return Target("chat", SecretStr(url))


def service_at(receiver: HttpReceiver) -> str:
    """The address of a service of Apprise that posts to the receiver, and asks for retries and redirects."""
    return receiver.url.replace("http://", "json://") + "?retry=3&redirect=yes"


@pytest.fixture
def receiver() -> HttpReceiver:
    """A receiver whose requests have no Idempotency-Key."""
    return HttpReceiver()


def test_a_message_is_sent_in_one_piece(receiver: HttpReceiver, message: Message) -> None:
    with receiver:
        delivery = make_sender(target(service_at(receiver))).send(message)

    ((_, _, body),) = receiver.requests
    assert delivery == Delivery(Result.SENT)
    assert body["title"] == "Customers to call"
    assert "1. Customer 1\n" in body["message"]
    assert "'churn cases list' shows the current list." in body["message"]


@pytest.mark.parametrize("status", [404, 503, 307])
def test_a_failure_after_writing_is_in_doubt_and_is_not_repeated(
    receiver: HttpReceiver, message: Message, status: int
) -> None:
    with HttpReceiver() as other, receiver:
        receiver.status[Behaviour.ACCEPT] = status
        receiver.headers["Location"] = other.url

        delivery = make_sender(target(service_at(receiver))).send(message)

        assert delivery == Delivery(Result.IN_DOUBT, "The service did not confirm the message.")
        assert (len(receiver.requests), len(other.requests)) == (1, 0)


def test_without_a_connection_it_is_not_sent(message: Message) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    delivery = make_sender(target(f"json://127.0.0.1:{port}/s3cret")).send(message)

    assert delivery == Delivery(Result.NOT_SENT, "The service cannot be reached.")


def test_the_address_is_not_logged(message: Message, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    make_sender(target(f"json://user:s3cret@127.0.0.1:{port}/t0ken")).send(message)

    assert "s3cret" not in caplog.text
    assert "t0ken" not in caplog.text


@pytest.mark.parametrize("url", ["nosuchservice://token/s3cret", "slack://s3cret"])
def test_an_address_that_apprise_cannot_use_is_an_error_without_the_address(url: str) -> None:
    with pytest.raises(TargetError, match="the target 'chat'") as refusal:
        make_sender(target(url))

    assert "s3cret" not in str(refusal.value)


def test_a_process_that_dies_while_it_sends_leaves_doubt(message: Message) -> None:
    def kill(moment: str, _key: str) -> None:
        if moment == "after":
            (child,) = psutil.Process().children()
            child.kill()

    with HttpReceiver(moment=kill) as killing:
        delivery = make_sender(target(service_at(killing))).send(message)

    assert delivery.result is Result.IN_DOUBT
    assert "ended without an answer, with status -9" in delivery.reason
    assert killing.kept.total() == 1


def test_apprise_is_never_imported_by_the_process_of_the_duties() -> None:
    script = (
        "import sys\n"
        "from churn_platform.alerts.duties import alert_duties\n"
        "from churn_platform.settings import Settings\n"
        "targets = 'a=https://b.org/ c=smtp://d.org?from=e@f.org&to=g@h.org i=json://j.org'\n"
        "variables = {'KAFKA_BOOTSTRAP_SERVERS': 'localhost:1', 'ALERT_TARGETS': targets}\n"
        "alert_duties(Settings.from_variables(variables), lambda connection, day: [])\n"
        "sys.exit('apprise' in sys.modules or 'requests' in sys.modules)\n"
    )

    assert subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False).returncode == 0
