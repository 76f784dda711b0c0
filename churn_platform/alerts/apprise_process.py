"""`python -m churn_platform.alerts.apprise_process`: sends one message through Apprise, and ends.

apprise_services.py starts it. Apprise reports only whether it succeeded. A failure is in doubt, unless no request was
written to any connection. Python raises an audit event before http.client writes a request, which tells the two apart:
https://docs.python.org/3/library/audit_events.html
"""

import logging
import signal
import sys
from typing import Final

import apprise
import msgspec

from churn_platform.alerts.apprise_services import LONGEST_SECONDS, Answer, Request
from churn_platform.alerts.delivery import Result
from churn_platform.alerts.messages import shortened

WRITTEN: Final = "http.client.send"


def answer(request: Request) -> Answer:
    """Do what is asked for: check an address, and send if there is a text."""
    service = _service(request.url)
    if service is None:
        return Answer(usable=False)
    return Answer(usable=True) if request.text is None else _send(service, request.subject, request.text)


def _service(url: str) -> apprise.NotifyBase | None:
    """Return the service at an address; None if Apprise cannot use it."""
    asset = apprise.AppriseAsset(
        async_mode=False, http_redirects=False, default_service_retry=0, secure_logging=True, allow_templates=False
    )
    service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    if not isinstance(service, apprise.NotifyBase):
        return None
    # The address may ask for both with ?retry= and ?redirect=.
    service.retry, service.redirects = 0, False
    return service


def _send(service: apprise.NotifyBase, subject: str, text: str) -> Answer:
    """Send a message, shortened to what the service takes in one piece."""
    written = _requests_written()
    try:
        sent = service.notify(
            body=shortened(text, max(200, service.body_maxlen - len(subject) - 10)),
            title=subject,
            notify_type=apprise.NotifyType.INFO,
            body_format=apprise.NotifyFormat.TEXT,
        )
    except Exception as error:
        return Answer(usable=True, result=Result.IN_DOUBT, reason=f"The service failed ({type(error).__name__}).")
    if sent:
        return Answer(usable=True, result=Result.SENT)
    # Plugins that use other protocols write to sockets in other ways.
    uses_http = hasattr(sys.modules[type(service).__module__], "requests")
    if uses_http and not written:
        return Answer(usable=True, result=Result.NOT_SENT, reason="The service cannot be reached.")
    return Answer(usable=True, result=Result.IN_DOUBT, reason="The service did not confirm the message.")


def _requests_written() -> list[str]:
    """Return a list to which each request that this process writes from now on is added."""
    written: list[str] = []

    def note(event: str, _: tuple[object, ...]) -> None:
        if event == WRITTEN:
            written.append(event)

    sys.addaudithook(note)
    return written


if __name__ == "__main__":
    signal.alarm(LONGEST_SECONDS)  # its signal ends the process
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its log has addresses and tokens
    found = answer(msgspec.json.decode(sys.stdin.buffer.read(), type=Request))
    sys.stdout.buffer.write(msgspec.json.encode(found))
