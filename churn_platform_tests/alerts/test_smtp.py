"""The SMTP sender knows whether the server took a message."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from churn_platform.alerts.delivery import Delivery, Result
from churn_platform.alerts.messages import Message
from churn_platform.alerts.smtp import ANSWER_SECONDS, TIMEOUT_SECONDS, SmtpSender
from churn_platform.alerts.targets import Target, smtp_address
from churn_platform_tests.alerts.receivers import Behaviour, SmtpReceiver, always
from churn_platform_tests.kafka.secured import Authority


def message(text: str = "Call 15634602.\n.\nA line after a dot, and ä.\n") -> Message:
    return Message(
        key=uuid4(),
        kind="digest",
        reference="2026-11-29T08:00",
        subject="2 customers\r\nBcc: x@y.org",
        text=text,
        created_at=datetime(2026, 11, 29, 8, tzinfo=UTC),
    )


def sender(url: str, *, timeout: float = TIMEOUT_SECONDS, answer_timeout: float = ANSWER_SECONDS) -> SmtpSender:
    return SmtpSender(smtp_address(Target("mail", SecretStr(url))), timeout=timeout, answer_timeout=answer_timeout)


def test_a_message_arrives_as_it_was_written() -> None:
    sent = message()
    with SmtpReceiver() as receiver:
        delivery = sender(receiver.url.replace("team@example.org", "team@example.org,boss@example.org")).send(sent)
        ((envelope, mail),) = receiver.mails

    assert delivery == Delivery(Result.SENT)
    assert envelope.rcpt_tos == ["team@example.org", "boss@example.org"]
    assert mail["Message-ID"] == f"<{sent.key}@example.org>"
    assert mail["Subject"] == "2 customers Bcc: x@y.org"
    assert mail["Bcc"] is None
    assert mail["Date"] == "Sun, 29 Nov 2026 08:00:00 +0000"
    assert mail.get_content().replace("\r\n", "\n") == sent.text


@pytest.mark.parametrize(
    ("behaviour", "result", "reason"),
    [
        (Behaviour.REFUSE_NOW, Result.NOT_SENT, "The mail server refused the message: 451 4.7.1."),
        (Behaviour.REFUSE, Result.REFUSED, "The mail server refused the message: 554 5.7.1."),
        (Behaviour.DROP, Result.IN_DOUBT, "did not answer after the end of the message"),
        (Behaviour.HANG, Result.IN_DOUBT, "did not answer after the end of the message"),
    ],
)
def test_an_answer_after_the_end_of_the_message_decides(behaviour: Behaviour, result: Result, reason: str) -> None:
    with SmtpReceiver(always(behaviour)) as receiver:
        delivery = sender(receiver.url, answer_timeout=0.2).send(message())

    assert delivery.result is result
    assert reason in delivery.reason


@pytest.mark.parametrize(
    ("answer", "result", "reason"),
    [
        ("550 5.1.1 no boss@example.org here", Result.REFUSED, "The mail server refused recipient 2: 550 5.1.1."),
        ("450 mailbox busy", Result.NOT_SENT, "The mail server refused recipient 2: 450."),
    ],
)
def test_if_one_recipient_is_refused_nobody_gets_the_message(answer: str, result: Result, reason: str) -> None:
    with SmtpReceiver(refused_recipients={"boss@example.org": answer}) as receiver:
        delivery = sender(receiver.url.replace("team@example.org", "team@example.org,boss@example.org")).send(message())

        assert (delivery.result, delivery.reason) == (result, reason)
        assert receiver.mails == []


def test_a_server_that_does_not_listen_has_no_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    delivery = sender(f"smtp://127.0.0.1:{port}?from=a@b.org&to=c@d.org&tls=none").send(message())

    assert delivery == Delivery(Result.NOT_SENT, "The mail server cannot be reached (ConnectionRefusedError).")


def test_a_server_that_is_silent_before_the_message_has_none() -> None:
    with silent_server() as port:
        delivery = sender(f"smtp://127.0.0.1:{port}?from=a@b.org&to=c@d.org&tls=none", timeout=0.2).send(message())

    assert delivery.result is Result.NOT_SENT
    assert "cannot be reached" in delivery.reason


@contextmanager
def silent_server() -> Iterator[int]:
    """A server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            held.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        thread.join()
        held[0].close()


def test_a_password_is_sent_only_over_a_trusted_encrypted_connection(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("mail"))
    trusting = ssl.create_default_context(cafile=authority.file)
    with SmtpReceiver(login=("churn", "p@ss"), tls=context) as receiver:
        base = f"smtp://churn:{{}}@localhost:{receiver.port}?from=churn@example.org&to=team@example.org"
        address = smtp_address(Target("mail", SecretStr(base.format("p%40ss"))))
        wrong = smtp_address(Target("mail", SecretStr(base.format("wrong"))))

        untrusted = SmtpSender(address).send(message())
        refused = SmtpSender(wrong, context=lambda: trusting, timeout=2.0).send(message())  # the server hangs then
        accepted = SmtpSender(address, context=lambda: trusting).send(message())

    assert (untrusted.result, "SSLCertVerificationError" in untrusted.reason) == (Result.NOT_SENT, True)
    assert refused.result is Result.NOT_SENT
    assert refused.reason.startswith("The mail server refused the login: ")
    assert accepted == Delivery(Result.SENT)
