"""What every sender does: it sends one message once, and reports whether the receiver took it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from churn_platform.alerts.messages import Message

# Most seconds that a receiver may ask to wait. A wrong answer must not hold a message back for days.
LONGEST_WAIT: Final = 3600.0


class Result(StrEnum):
    """What became of one attempt to send a message."""

    SENT = "sent"
    """The receiver reported that it took the message."""
    NOT_SENT = "not sent"
    """It certainly did not take it. Another attempt may succeed."""
    REFUSED = "refused"
    """It certainly did not take it, and another attempt would end alike."""
    IN_DOUBT = "in doubt"
    """It may have taken it."""


@dataclass(frozen=True)
class Delivery:
    """The result of one attempt.

    Attributes:
        result: see Result.
        reason: why it was not sent, for people. It has no part of the target's address, and no text of the receiver,
            which may repeat an address.
        wait: seconds that the receiver asks to wait before the next attempt; None if it does not.
    """

    result: Result
    reason: str = ""
    wait: float | None = None


SENT: Final = Delivery(Result.SENT)


class Sender(Protocol):
    """Sends messages to one target."""

    def send(self, message: Message) -> Delivery:
        """Send a message once. No error of the network or of the receiver is raised."""
