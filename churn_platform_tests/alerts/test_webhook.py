"""The webhook sender knows whether the receiver took a message."""

import logging
import socket
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from churn_platform.alerts.delivery import Delivery, Result
from churn_platform.alerts.messages import Message
from churn_platform.alerts.webhook import WebhookSender
from churn_platform_tests.alerts.receivers import Behaviour, HttpReceiver, always


@pytest.fixture
def message() -> Message:
    """A message about one customer."""
    return Message(
        key=uuid4(),
        kind="case",
        reference="case 17",
        subject="Customer to call",
        text="Customer 15634602",
        created_at=datetime(2026, 11, 29, 8, tzinfo=UTC),
        data={"cases": [{"case_id": 17}]},
    )


def test_a_message_is_posted_as_json_with_its_key(message: Message) -> None:
    with HttpReceiver() as receiver:
        delivery = WebhookSender(receiver.url.replace("//", "//user:p%40ss@") + "?token=1").send(message)
        ((path, headers, body),) = receiver.requests

    assert delivery == Delivery(Result.SENT)
    assert path == "/hook?token=1"
    assert headers["Idempotency-Key"] == str(message.key)
    assert headers["Authorization"] == "Basic dXNlcjpwQHNz"
    assert body == {
        "idempotency_key": str(message.key),
        "kind": "case",
        "reference": "case 17",
        "created_at": "2026-11-29T08:00:00+00:00",
        "subject": "Customer to call",
        "text": "Customer 15634602",
        "cases": [{"case_id": 17}],
    }


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, Result.SENT),
        (202, Result.SENT),
        (307, Result.REFUSED),
        (400, Result.REFUSED),
        (404, Result.REFUSED),
        (408, Result.NOT_SENT),
        (429, Result.NOT_SENT),
        (500, Result.NOT_SENT),
        (503, Result.NOT_SENT),
        (502, Result.IN_DOUBT),
        (504, Result.IN_DOUBT),
    ],
)
def test_the_status_of_the_answer_decides(message: Message, status: int, result: Result) -> None:
    with HttpReceiver() as receiver:
        receiver.status[Behaviour.ACCEPT] = status

        delivery = WebhookSender(receiver.url).send(message)

    assert delivery.result is result
    assert result is Result.SENT or str(status) in delivery.reason


def test_a_redirect_is_not_followed(message: Message) -> None:
    with HttpReceiver() as other, HttpReceiver() as receiver:
        receiver.status[Behaviour.ACCEPT] = 307
        receiver.headers["Location"] = other.url

        delivery = WebhookSender(receiver.url).send(message)

        assert "Redirects are not followed" in delivery.reason
        assert other.requests == []


@pytest.mark.parametrize(("given", "wait"), [("120", 120.0), ("99999", 3600.0), ("soon", None)])
def test_a_receiver_may_ask_to_wait(message: Message, given: str, wait: float | None) -> None:
    with HttpReceiver(always(Behaviour.REFUSE_NOW)) as receiver:
        receiver.headers["Retry-After"] = given

        assert WebhookSender(receiver.url).send(message).wait == wait


@pytest.mark.parametrize("behaviour", [Behaviour.DROP, Behaviour.HANG])
def test_without_an_answer_it_is_in_doubt(message: Message, behaviour: Behaviour) -> None:
    with HttpReceiver(always(behaviour)) as receiver:
        delivery = WebhookSender(receiver.url, answer_timeout=0.3).send(message)

    assert delivery.result is Result.IN_DOUBT
    assert "did not answer" in delivery.reason


def test_without_a_connection_it_is_not_sent(message: Message) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    delivery = WebhookSender(f"http://127.0.0.1:{port}/s3cret").send(message)

    assert delivery == Delivery(Result.NOT_SENT, "The webhook cannot be reached (ConnectError).")


def test_the_address_is_not_logged(message: Message, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with HttpReceiver() as receiver:
        WebhookSender(receiver.url + "/s3cret").send(message)

    assert "s3cret" not in caplog.text
