"""Predictions and their summaries, dead letters and call lists, as pages read them."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

import psycopg

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform_tests.worker.ledger import TOPIC_ID, FollowedLedger, Scored

_customers: Iterator[int] = itertools.count(1)
HIGH, LOW = 0.9, 0.2
MESSAGE: Final = '{"CustomerId": 15634602, "Age": "secret"}'
"""The bytes of each dead letter, as text."""
OUTCOME_DAYS: Final = 60
"""After these days the outcome of a customer on a call list is known."""


def predictions(
    count: int,
    *,
    churned: int,
    days_ago: int = 0,
    country: str = "France",
    age: float = 42.0,
    high_risk: int = 0,
    balance: float = 1_000.0,
) -> list[Scored]:
    """Return predictions of as many new customers.

    Args:
        count: of predictions.
        churned: of them, those of churn.
        days_ago: age of the events.
        country: of the customers.
        age: of the customers.
        high_risk: predictions with the risk score HIGH; the others have LOW.
        balance: of the customers.
    """
    return [
        Scored(
            next(_customers),
            HIGH if number < high_risk else LOW,
            timedelta(days=days_ago),
            balance=balance,
            age=age,
            country=country,
            prediction=int(number < churned),
        )
        for number in range(count)
    ]


def summarize(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    """Let the worker bring the summaries up to date."""
    duty = SummariesDuty(SummariesConfig(schema=schema, control_share=0.2))
    while duty.run(connection):
        pass


def add_dead_letters(
    connection: psycopg.Connection,
    ledger: FollowedLedger,
    reasons: Sequence[str],
    *,
    ago: timedelta = timedelta(minutes=5),
    first: int = 0,
    retried: bool = False,
) -> None:
    """Store a dead letter for each reason, and count them as the worker does."""
    read = datetime.now(UTC) - ago
    for number, reason in enumerate(reasons, start=first):
        connection.execute(
            "insert into dead_letter_events (topic_id, kafka_partition, kafka_offset, batch, topic, reason, payload, "
            "received_at, retry_event_id, retried_at) values (%s, 0, %s, %s, 'events', %s, %s, %s, %s, %s)",
            (
                TOPIC_ID,
                number,
                ledger.batch,
                reason,
                MESSAGE.encode(),
                read,
                *((uuid4(), read) if retried else (None,) * 2),
            ),
        )
    connection.execute(
        "insert into stream_minutes values (date_trunc('minute', %s::timestamptz), 990, %s, array_fill(0::bigint, "
        "array[21]))",
        (read, len(reasons)),
    )


def add_call_lists(connection: psycopg.Connection) -> None:
    """Enter customers into call lists of the past: 40 contacts of whom 10 left, 20 controls of whom 12 left, and 5
    contacts in Spain whose outcomes are not known yet. The database has to have a case.
    """
    insert = """
        insert into retention_list_entries (
            day, entered_at, case_id, customer_id, arm, rank, priority, risk_score, money_at_risk, segments
        )
        select current_date - %(ago)s, now() - %(ago)s * interval '1 day', 1, %(first)s + n, %(arm)s, 1, 1, 0.9, 1000,
            jsonb_build_object('geography', %(country)s::text)
        from generate_series(1, %(count)s) as s (n)
    """
    for first, count, arm, country, ago in (
        (1_000, 40, "contact", "Germany", OUTCOME_DAYS + 2),
        (2_000, 20, "control", "Germany", OUTCOME_DAYS + 2),
        (3_000, 5, "contact", "Spain", 1),
    ):
        parameters = {"first": first, "count": count, "arm": arm, "country": country, "ago": ago}
        connection.execute(insert, parameters)
    connection.execute(
        "insert into retention_entry_outcomes (entry, churned, contacted) "
        "select entry, customer_id <= 1010 or customer_id between 2001 and 2012, arm = 'contact' "
        "from retention_list_entries where customer_id < 3000"
    )
