"""Sends messages to Slack, Teams and many other services through Apprise, each in a process of its own.

Apprise imports the plugins of all its services, which take 25 MB for as long as a process lives. So the worker starts
apprise_process.py for a message, and that process ends with it. If it ends without an answer, nobody knows whether the
service has the message, as when the worker itself dies.
"""

import subprocess
import sys
from typing import Final

import msgspec

from churn_platform.alerts.delivery import Delivery, Result
from churn_platform.alerts.exceptions import TargetError
from churn_platform.alerts.messages import Message
from churn_platform.alerts.targets import Target

PROGRAM: Final = "churn_platform.alerts.apprise_process"
LONGEST_SECONDS: Final = 60
"""After this time the process ends itself. Apprise waits for 4 s for a connection, and 4 s for an answer, unless the
address asks for more (cto= and rto=)."""
# A frozen process does not end itself.
PATIENCE_SECONDS: Final = LONGEST_SECONDS + 10.0


class Request(msgspec.Struct):
    """What the process is to do. It comes through standard input, because arguments are visible to other users.

    Attributes:
        url: address of the service, which is secret.
        subject: of the message.
        text: of the message; None to check the address only.
    """

    url: str
    subject: str = ""
    text: str | None = None


class Answer(msgspec.Struct):
    """What the process has found.

    Attributes:
        usable: whether Apprise can use the address.
        result: of sending; None if nothing was to be sent.
        reason: why it was not sent.
    """

    usable: bool
    result: Result | None = None
    reason: str = ""


class AppriseSender:
    """Sends to one service, once for each message: Apprise's own retries and redirects are off."""

    def __init__(self, target: Target) -> None:
        """Check the address. Connect to nothing yet.

        Raises:
            TargetError: Apprise does not know the service, the address is not complete, or Apprise does not start.
        """
        self._url = target.url.get_secret_value()
        answer = _ask(Request(self._url))
        if isinstance(answer, Delivery):
            raise TargetError(
                f"The address of the target {target.name!r} cannot be checked. {answer.reason}",
                remedy=f"'{sys.executable} -m {PROGRAM}' has to start and to wait for input.",
            )
        if not answer.usable:
            raise TargetError(
                f"Apprise cannot use the address of the target {target.name!r}: it does not know the service, or a "
                f"part of the address is missing.",
                remedy="https://appriseit.com/services/ lists the services and their addresses. E-mail and plain "
                "webhooks need no Apprise: use smtp:// or https://.",
            )

    def send(self, message: Message) -> Delivery:
        """Send a message, shortened to what the service takes in one piece."""
        answer = _ask(Request(self._url, message.subject, message.text))
        if isinstance(answer, Delivery):
            return answer
        if answer.result is None:
            raise RuntimeError("The process answered without a result. The address was usable before.")
        return Delivery(answer.result, answer.reason)


def _ask(request: Request) -> Answer | Delivery:
    """Return the answer of a process to a request; without one, what that means for a message."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", PROGRAM],
            input=msgspec.json.encode(request),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback may have the address
            timeout=PATIENCE_SECONDS,
            process_group=0,  # Ctrl-C ends the worker only, and the process finishes its message
            check=False,
        )
        return msgspec.json.decode(done.stdout, type=Answer)
    except OSError as error:
        return Delivery(Result.NOT_SENT, f"The process that sends through Apprise did not start ({error.strerror}).")
    except subprocess.TimeoutExpired:
        reason = f"did not answer for {PATIENCE_SECONDS:g} s"
    except msgspec.DecodeError:
        reason = f"ended without an answer, with status {done.returncode}"
    return Delivery(Result.IN_DOUBT, f"The process that sends through Apprise {reason}.")
