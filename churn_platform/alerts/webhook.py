"""Sends messages to webhooks as JSON, and knows whether the receiver took one."""

import logging
from typing import Final

import httpx

from churn_platform.alerts.delivery import LONGEST_WAIT, SENT, Delivery, Result
from churn_platform.alerts.messages import Message

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 30.0
REQUEST_TIMEOUT: Final = 408
TOO_MANY_REQUESTS: Final = 429
# The answer of a proxy that got none from the receiver, which may have taken the message.
BAD_GATEWAY: Final = 502
GATEWAY_TIMEOUT: Final = 504
IDEMPOTENCY_HEADER: Final = "Idempotency-Key"

# It logs the address of every request.
logging.getLogger("httpx").setLevel(logging.WARNING)


class WebhookSender:
    """Sends each message over a connection of its own: a kept one may close just when a message is written to it."""

    def __init__(
        self, url: str, *, connect_timeout: float = CONNECT_SECONDS, answer_timeout: float = ANSWER_SECONDS
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: http:// or https://. A user and a password in it become a header.
            connect_timeout: seconds until the connection is established.
            answer_timeout: seconds to wait for the answer.
        """
        self._url = url
        self._timeout = httpx.Timeout(answer_timeout, connect=connect_timeout)
        self._context = httpx.create_ssl_context()  # reading the certificates for every message would take 10 ms

    def send(self, message: Message) -> Delivery:
        """Send a message. A redirect is not followed: what it leads to was not configured."""
        try:
            with (
                httpx.Client(timeout=self._timeout, verify=self._context, follow_redirects=False) as client,
                # The body of the answer is not read: its status decides.
                client.stream(
                    "POST", self._url, json=message.as_dict(), headers={IDEMPOTENCY_HEADER: str(message.key)}
                ) as answer,
            ):
                return _delivery(answer)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            return Delivery(Result.NOT_SENT, f"The webhook cannot be reached ({type(error).__name__}).")
        except httpx.InvalidURL:
            return Delivery(Result.REFUSED, "The address of the webhook is not a URL.")
        except httpx.HTTPError as error:
            return Delivery(Result.IN_DOUBT, f"The webhook did not answer the request ({type(error).__name__}).")


def _delivery(answer: httpx.Response) -> Delivery:
    status = answer.status_code
    if 200 <= status < 300:
        return SENT
    reason = f"The webhook answered with status {status}."
    if 300 <= status < 400:
        return Delivery(Result.REFUSED, f"{reason} Redirects are not followed: set the target to the final address.")
    if status in (BAD_GATEWAY, GATEWAY_TIMEOUT):
        return Delivery(Result.IN_DOUBT, f"{reason} A proxy got no answer from the receiver.")
    if status >= 500 or status in (REQUEST_TIMEOUT, TOO_MANY_REQUESTS):
        return Delivery(Result.NOT_SENT, reason, _wait(answer))
    return Delivery(Result.REFUSED, reason)


def _wait(answer: httpx.Response) -> float | None:
    """Return the seconds in the header Retry-After, at most an hour; None without them."""
    value = answer.headers.get("Retry-After", "")
    return min(float(value), LONGEST_WAIT) if value.isdecimal() and len(value) < 10 else None
