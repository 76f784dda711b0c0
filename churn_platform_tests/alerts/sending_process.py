"""A process that sends alerts until it is killed: `python -m churn_platform_tests.alerts.sending_process`.

Its arguments are the connection string, and the address of each target as name=url. It is the worker's own loop with
short pauses and time-outs, because the receivers fail on purpose.
"""

import sys
from datetime import date

import psycopg
from pydantic import SecretStr

from churn_platform.alerts.delivery import Sender
from churn_platform.alerts.outbox import AlertOutbox, ListedCase
from churn_platform.alerts.policy import AlertPolicy, RetryPolicy
from churn_platform.alerts.sending import AlertSending
from churn_platform.alerts.smtp import SmtpSender
from churn_platform.alerts.targets import Target, make_sender, smtp_address, webhook_url
from churn_platform.alerts.webhook import WebhookSender
from churn_platform.database.connections import connect
from churn_platform.settings import Settings
from churn_platform.worker.duty import Duty
from churn_platform.worker.loop import Worker

ANSWER_SECONDS = 0.2
RETRIES = RetryPolicy(attempts=1000, first_pause=0.05, longest_pause=0.5)


def no_cases(_connection: psycopg.Connection, _day: date) -> list[ListedCase]:
    """Return an empty call list: the test has filled the outbox."""
    return []


def sending(text: str, policy: AlertPolicy) -> AlertSending:
    """Return the duty of a target."""
    name, _, url = text.partition("=")
    target = Target(name, SecretStr(url))
    sender: Sender
    match target.service:
        case "smtp":
            sender = SmtpSender(smtp_address(target), answer_timeout=ANSWER_SECONDS)
        case "webhook":
            sender = WebhookSender(webhook_url(target), answer_timeout=ANSWER_SECONDS)
        case "apprise":
            sender = make_sender(target)
    return AlertSending(target, policy, RETRIES, sender=sender, poll_seconds=0.05, longest_break=0.05)


def main(dsn: str, *targets: str) -> None:
    """Send until the end of standard input."""
    policy = AlertPolicy.from_settings(Settings())
    duties: list[Duty] = [AlertOutbox([], policy, no_cases, keep_days=90), *(sending(each, policy) for each in targets)]
    worker = Worker(duties, lambda name: connect(dsn, application_name=name, autocommit=True), first_pause=0.1)
    worker.start()
    sys.stdin.read()
    worker.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
