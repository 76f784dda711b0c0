"""The duty that sends the messages of one target, one after the other.

Each message is claimed in a transaction of its own before it is sent, and its result is recorded after. If the process
dies in between, nobody knows whether the receiver has the message: outbox.py marks it as in doubt.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from churn_platform.alerts.delivery import Delivery, Result, Sender
from churn_platform.alerts.messages import of_stored
from churn_platform.alerts.policy import AlertPolicy, RetryPolicy
from churn_platform.alerts.targets import Target, make_sender
from churn_platform.database import advisory_locks, alert_outbox
from churn_platform.database.alert_outbox import Kind, StoredMessage

_log = logging.getLogger("churn.alerts")

# Seconds between two looks for messages. A message to operators waits for half of it on average.
POLL_SECONDS: Final = 5.0
# While a target cannot be reached, other messages to it wait, too. Otherwise each of many messages would wait for a
# timeout of its own.
LONGEST_BREAK: Final = 60.0
ALWAYS: Final[tuple[Kind, ...]] = ("operator",)
ANY: Final[tuple[Kind, ...]] = ("operator", "case", "digest")


class AlertSending:
    """Sends the messages of one target. Several workers may do so at the same time."""

    exclusive: Final = False

    def __init__(
        self,
        target: Target,
        policy: AlertPolicy,
        retries: RetryPolicy,
        *,
        sender: Sender | None = None,
        poll_seconds: float = POLL_SECONDS,
        longest_break: float = LONGEST_BREAK,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Connect to nothing yet.

        Args:
            target: whose messages are sent.
            policy: when nobody is told about customers.
            retries: how often a message is tried.
            sender: sends to the target; None for the one that its address needs.
            poll_seconds: between two looks for messages.
            longest_break: most seconds without an attempt while the target cannot be reached.
            now: the clock.

        Raises:
            TargetError: the address of the target cannot be used.
        """
        self.name = f"alerts to {target.name}"
        self._target = target.name
        self._sender = make_sender(target) if sender is None else sender
        self._policy, self._retries = policy, retries
        self._poll_seconds, self._longest_break = poll_seconds, longest_break
        self._now = now
        self._session: psycopg.Connection | None = None
        self._number = 0
        self._unrecorded: tuple[StoredMessage, Delivery] | None = None
        self._failures = 0  # in a row

    @property
    def interval(self) -> float:
        """Seconds until the next look: longer while the target cannot be reached."""
        if self._failures == 0:
            return self._poll_seconds
        return min(self._poll_seconds * 2.0 ** min(self._failures - 1, 10), self._longest_break)

    def run(self, connection: psycopg.Connection) -> bool:
        """Send one message; return whether others may be due."""
        self._record(connection)  # what the last session could not
        if self._session is not connection:
            self._number, self._session = advisory_locks.lock_sender(connection), connection
        kinds = ALWAYS if self._policy.is_quiet(self._now()) else ANY
        message = alert_outbox.claim(connection, target=self._target, kinds=kinds, sender=self._number)
        if message is None:
            self._failures = 0
            return False
        self._unrecorded = message, self._send(message)
        return self._record(connection)

    def _send(self, message: StoredMessage) -> Delivery:
        try:
            return self._sender.send(of_stored(message))
        except Exception as error:
            # An error in the sender itself: it does not say how far it came.
            _log.exception("The sender for %s failed with message %s.", self._target, message.id)
            return Delivery(Result.IN_DOUBT, f"The sender failed ({type(error).__name__}).")

    def _record(self, connection: psycopg.Connection) -> bool:
        """Record the latest result; return whether the target can take another message at once."""
        if self._unrecorded is None:
            return True
        message, delivery = self._unrecorded
        match delivery.result:
            case Result.SENT:
                alert_outbox.record_sent(connection, message)
            case Result.REFUSED:
                alert_outbox.record_failed(connection, message, error=delivery.reason)
            case Result.IN_DOUBT:
                alert_outbox.record_in_doubt(connection, message, error=delivery.reason)
            case Result.NOT_SENT if message.attempts >= self._retries.attempts:
                error = f"{delivery.reason} It was the last of {message.attempts} attempts."
                alert_outbox.record_failed(connection, message, error=error)
            case Result.NOT_SENT:
                pause = max(self._retries.pause(message.attempts), delivery.wait or 0.0)
                next_attempt = self._now() + timedelta(seconds=pause)
                alert_outbox.record_not_sent(connection, message, error=delivery.reason, next_attempt=next_attempt)
        self._unrecorded = None
        self._log(message, delivery)
        self._failures = self._failures + 1 if delivery.result is Result.NOT_SENT else 0
        return self._failures == 0

    def _log(self, message: StoredMessage, delivery: Delivery) -> None:
        about = f"{message.kind} {message.reference} to {self._target}"
        if delivery.result is Result.SENT:
            _log.info("Sent %s.", about)
        else:
            _log.warning("Message %s, %s, is %s: %s", message.id, about, delivery.result, delivery.reason)
