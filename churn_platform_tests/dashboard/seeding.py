"""Predictions and their summaries, as pages read them."""

import itertools
from collections.abc import Iterator
from datetime import timedelta

import psycopg

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform_tests.worker.ledger import Scored

_customers: Iterator[int] = itertools.count(1)
HIGH, LOW = 0.9, 0.2


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
