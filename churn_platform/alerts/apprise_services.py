"""Sends messages to Slack, Teams and many other services through Apprise.

Apprise reports only whether it succeeded. A failure is in doubt, unless no request was written to any connection.
Python raises an audit event before http.client writes a request, which tells the two apart:
https://docs.python.org/3/library/audit_events.html
"""

import logging
import sys
import threading
from functools import cache
from typing import Final

import apprise

from churn_platform.alerts.delivery import SENT, Delivery, Result
from churn_platform.alerts.exceptions import TargetError
from churn_platform.alerts.messages import Message, shortened
from churn_platform.alerts.targets import Target

WRITTEN: Final = "http.client.send"

# Its log has addresses and tokens.
logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
_written = threading.local()


class AppriseSender:
    """Sends to one service, once for each message: Apprise's own retries and redirects are off."""

    def __init__(self, target: Target) -> None:
        """Connect to nothing yet.

        Raises:
            TargetError: Apprise does not know the service, or the address is not complete.
        """
        asset = apprise.AppriseAsset(
            async_mode=False, http_redirects=False, default_service_retry=0, secure_logging=True, allow_templates=False
        )
        service = apprise.Apprise.instantiate(target.url.get_secret_value(), asset=asset, suppress_exceptions=True)
        if not isinstance(service, apprise.NotifyBase):
            raise TargetError(
                f"Apprise cannot use the address of the target {target.name!r}: it does not know the service, or a "
                f"part of the address is missing.",
                remedy="https://appriseit.com/services/ lists the services and their addresses. E-mail and plain "
                "webhooks need no Apprise: use smtp:// or https://.",
            )
        # The address may ask for both with ?retry= and ?redirect=.
        service.retry, service.redirects = 0, False
        self._service = service
        # Plugins that use other protocols write to sockets in other ways.
        self._uses_http = hasattr(sys.modules[type(service).__module__], "requests")
        _watch_requests()

    def send(self, message: Message) -> Delivery:
        """Send a message, shortened to what the service takes in one piece."""
        _written.count = 0
        text = shortened(message.text, max(200, self._service.body_maxlen - len(message.subject) - 10))
        try:
            sent = self._service.notify(
                body=text,
                title=message.subject,
                notify_type=apprise.NotifyType.INFO,
                body_format=apprise.NotifyFormat.TEXT,
            )
        except Exception as error:
            return Delivery(Result.IN_DOUBT, f"The service failed ({type(error).__name__}).")
        if sent:
            return SENT
        if self._uses_http and _written.count == 0:
            return Delivery(Result.NOT_SENT, "The service cannot be reached.")
        return Delivery(Result.IN_DOUBT, "The service did not confirm the message.")


@cache
def _watch_requests() -> None:
    """Count the requests that each thread writes. An audit hook stays for the life of the process."""

    def count(event: str, _: tuple[object, ...]) -> None:
        if event == WRITTEN:
            _written.count = getattr(_written, "count", 0) + 1

    sys.addaudithook(count)
