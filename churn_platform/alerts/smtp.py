"""Sends messages by e-mail, and knows whether the server took one.

A server takes a message when it answers the line that ends it, a dot. What fails before that line is certainly not
sent. What fails after it, without an answer, is in doubt (RFC 5321, section 6.1: the server is responsible for a
message from the moment of its answer, and a client that misses the answer cannot know).
"""

import re
import smtplib
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from functools import partial
from typing import Final

from churn_platform.alerts.delivery import SENT, Delivery, Result
from churn_platform.alerts.messages import Message
from churn_platform.alerts.targets import SmtpAddress

# RFC 5321, section 4.5.3.2, recommends minutes. A sender holds back other messages to its target for as long.
TIMEOUT_SECONDS: Final = 20.0
# The answer to the last line may take longer: servers check the content of a message before they take it.
ANSWER_SECONDS: Final = 60.0
END: Final = b".\r\n"
_DOT: Final = re.compile(rb"^\.", re.MULTILINE)
_STATUS: Final = re.compile(rb"\d\.\d{1,3}\.\d{1,3}")


class SmtpSender:
    """Sends each message over a connection of its own."""

    def __init__(
        self,
        address: SmtpAddress,
        *,
        timeout: float = TIMEOUT_SECONDS,
        answer_timeout: float = ANSWER_SECONDS,
        context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        """Connect to nothing yet.

        Args:
            address: server, sender and recipients.
            timeout: seconds to wait for each answer.
            answer_timeout: seconds to wait for the answer that decides.
            context: creates the TLS settings.
        """
        self._address = address
        self._timeout, self._answer_timeout = timeout, answer_timeout
        self._context = context

    def send(self, message: Message) -> Delivery:
        """Send a message to all recipients, or to none if the server refuses one."""
        with ExitStack() as connection:
            try:
                client = self._open()
                connection.callback(client.close)  # QUIT would wait for an answer that changes nothing
                self._log_in(client)
                if (refusal := self._begin(client)) is not None:
                    return refusal
                client.send(_DOT.sub(b"..", self._written(message)))
            except (OSError, smtplib.SMTPException) as error:
                return _not_sent(error)
            return self._finish(client)

    def _open(self) -> smtplib.SMTP:
        """Return a connection, encrypted from the first byte if the address demands it."""
        address = self._address
        if address.tls == "implicit":
            return smtplib.SMTP_SSL(address.host, address.port, timeout=self._timeout, context=self._context())
        return smtplib.SMTP(address.host, address.port, timeout=self._timeout)

    def _log_in(self, client: smtplib.SMTP) -> None:
        """Encrypt the connection and log in as the address demands."""
        if self._address.tls == "starttls":
            client.starttls(context=self._context())
        if self._address.user is None:
            client.ehlo_or_helo_if_needed()
        else:
            _login(client, self._address.user, self._address.password or "")

    def _begin(self, client: smtplib.SMTP) -> Delivery | None:
        """Name sender and recipients, and announce the message; return a refusal, or None."""
        steps = [
            ("the sender", partial(client.mail, self._address.sender), (250,)),
            *(
                (f"recipient {number}", partial(client.rcpt, recipient), (250, 251))
                for number, recipient in enumerate(self._address.recipients, start=1)
            ),
            ("the message", partial(client.docmd, "DATA"), (354,)),
        ]
        for what, step, accepted in steps:
            code, answer = step()
            if code not in accepted:
                return _refusal(what, code, answer)
        return None

    def _finish(self, client: smtplib.SMTP) -> Delivery:
        """Write the line that ends the message, and wait for the answer."""
        try:
            if client.sock is not None:
                client.sock.settimeout(self._answer_timeout)
            client.send(END)
            code, answer = client.getreply()
        except (OSError, smtplib.SMTPException) as error:
            return Delivery(
                Result.IN_DOUBT, f"The mail server did not answer after the end of the message ({_kind(error)})."
            )
        return SENT if code == 250 else _refusal("the message", code, answer)

    def _written(self, message: Message) -> bytes:
        """Return the message as bytes with CRLF at the end of every line, without its last line."""
        mail = EmailMessage(policy=SMTP_POLICY)
        mail["Subject"] = " ".join(message.subject.split())
        mail["From"] = Address(addr_spec=self._address.sender)
        mail["To"] = [Address(addr_spec=recipient) for recipient in self._address.recipients]
        mail["Date"] = format_datetime(message.created_at)
        mail["Message-ID"] = f"<{message.key}@{self._address.sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"  # so that nobody's absence note answers (RFC 3834)
        mail.set_content(message.text)
        return mail.as_bytes()


def _login(client: smtplib.SMTP, user: str, password: str) -> None:
    try:
        client.login(user, password)
    except smtplib.SMTPServerDisconnected as error:
        # The client tries one method of authentication after the other, and servers hang up after a few failures.
        raise smtplib.SMTPAuthenticationError(421, "") from error


def _refusal(what: str, code: int, answer: bytes) -> Delivery:
    """Return the result of a step that the server refused. Codes from 500 on are final (RFC 5321, section 4.2.1)."""
    status = _STATUS.search(answer)
    shown = f"{code} {status.group().decode()}" if status else str(code)
    result = Result.REFUSED if code >= 500 else Result.NOT_SENT
    return Delivery(result, f"The mail server refused {what}: {shown}.")


def _not_sent(error: Exception) -> Delivery:
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return Delivery(Result.NOT_SENT, f"The mail server refused the login: {error.smtp_code}.")
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Delivery(Result.NOT_SENT, "The mail server offers no STARTTLS, or no login that is supported.")
    return Delivery(Result.NOT_SENT, f"The mail server cannot be reached ({_kind(error)}).")


def _kind(error: Exception) -> str:
    """Return the kind of an error. Its text is not shown, because it may hold an address."""
    return type(error).__name__
