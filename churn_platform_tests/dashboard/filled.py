"""A database in which every page of the dashboard has something to show."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import psycopg

from churn_platform.database import model_versions, stream_lag
from churn_platform.monitoring import retention_effect
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.dashboard import models
from churn_platform_tests.dashboard.seeding import OUTCOME_DAYS, add_call_lists, add_dead_letters, predictions
from churn_platform_tests.dashboard.summaries import add_case, summarize
from churn_platform_tests.worker.ledger import TOPIC_ID, Scored
from churn_platform_tests.worker.teams import new_team

AT_RISK: Final = (900_001, 900_002, 900_003, 900_004)
"""Customers whom the team would call, the first one first. They are in Spain; the others are in France and Germany."""
CONTROL: Final = 900_005
"""A customer of the control group."""
DEAD_LETTER: Final = f"/quality/dead-letters/{TOPIC_ID}/0/0"
"""Address of a dead letter."""


@dataclass(frozen=True)
class Filled:
    """What tests need to know of the content.

    Attributes:
        case_id: number of the case of the first customer at risk.
    """

    case_id: int


def fill(connection: psycopg.Connection, schema: CustomerSchema) -> Filled:
    """Fill an empty database of the bank's customers.

    Args:
        connection: of the platform's own login, in autocommit mode.
        schema: of the customers.
    """
    team = new_team(connection, schema, cases_per_day=len(AT_RISK), timezone=ZoneInfo("Europe/Berlin"))
    for ago in (timedelta(days=8), timedelta(minutes=1)):
        team.commit(
            *(
                Scored(customer, 0.95 - 0.02 * place, ago, balance=9_000.0, country="Spain")
                for place, customer in enumerate(AT_RISK)
            ),
            explained=True,
        )
    add_call_lists(connection)
    team.commit(
        Scored(CONTROL, 0.6),
        *predictions(60, churned=20),
        *predictions(40, churned=10, country="Germany", days_ago=1),
        *predictions(40, churned=5, days_ago=9),
    )
    summarize(connection, schema)
    add_case(connection, CONTROL, arm="control")
    retention_effect.compute(connection, outcome_days=OUTCOME_DAYS, customer_value=None, now=datetime.now(UTC))
    for version in (1, 2):
        models.add_version(connection, version)
        model_versions.promote(connection, version, by="training", reason=f"Reason of version {version}.")
    for days_ago in range(2):
        models.add_drift(connection, 2, days_ago=days_ago, missing_ages=0.1)
        models.add_live_performance(connection, 2, days_ago=days_ago)
    add_dead_letters(connection, team.ledger, ["Age is missing", "Age is missing", "CustomerId is missing"])
    stream_lag.record(connection, waiting=111, problem="")
    [(case_id,)] = connection.execute(
        "select case_id from retention_cases where customer_id = %s", (AT_RISK[0],)
    ).fetchall()
    return Filled(case_id)
