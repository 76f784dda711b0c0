"""A retention team under test: a ledger, the duty that follows it, and their clock."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from zoneinfo import ZoneInfo

import psycopg

from churn_platform.retention.contact_policy import ContactPolicy
from churn_platform.retention.priority import CallValue
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.worker.cases import CasesConfig, CasesDuty
from churn_platform_tests.worker.ledger import FollowedLedger, Scored

AGEING = {
    "retention_cases": ("opened_at", "contacted_at", "closed_at", "event_timestamp"),
    "churn_predictions": ("event_timestamp", "predicted_at"),
    "high_risk_customers": ("detected_at",),
    "retention_list_entries": ("entered_at",),
    "customer_outcomes": ("outcome_timestamp",),
}
"""Tables and columns whose times tests move into the past."""


@dataclass
class Team:
    """A ledger, the duty that follows it, and the clock of both."""

    connection: psycopg.Connection
    ledger: FollowedLedger
    config: CasesConfig
    later: timedelta = timedelta(0)
    duty: CasesDuty = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, **changes: Any) -> None:
        """Start the duty again, as after the end of its process, with other settings."""
        self.config = replace(self.config, **changes)
        self.duty = CasesDuty(self.config, now=self.now, monotonic=lambda: self.now().timestamp())

    def now(self) -> datetime:
        """Return the time of the duty's clock."""
        return datetime.now(UTC) + self.later

    def commit(self, *scored: Scored, explained: bool = False) -> None:
        """Commit predictions and let the duty follow."""
        self.ledger.commit(scored, explained=explained)
        self.follow()

    def follow(self) -> None:
        """Let the duty run once."""
        assert self.duty.run(self.connection) is False

    def wait(self, **duration: float) -> None:
        """Let time pass for the duty: everything in the tables becomes older instead."""
        grow_older(self.connection, timedelta(**duration))
        self.restart()

    def rows(self, query: LiteralString) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(query).fetchall()

    def cases(self) -> list[tuple[Any, ...]]:
        """Return customer, status and rounded latest and highest score of each case, in the order of opening."""
        return [
            (customer, status, round(risk, 3), round(highest, 3))
            for customer, status, risk, highest in self.rows(
                "select customer_id, status, risk_score, highest_risk_score from retention_cases order by case_id"
            )
        ]

    def set_status(self, customer: int, status: str, **changes: str) -> None:
        """Change the newest case of a customer, as a person does."""
        self.connection.execute(
            "update retention_cases set status = %s, owner = coalesce(%s, owner) where case_id = ("
            "select max(case_id) from retention_cases where customer_id = %s)",
            (status, changes.get("owner"), customer),
        )

    def called(self) -> list[int]:
        """Return the customers on the call list, best first."""
        return [customer for (customer,) in self.rows("select customer_id from v_call_list")]


def grow_older(connection: psycopg.Connection, older: timedelta) -> None:
    """Let time pass for the retention team: everything in the tables becomes older instead.

    Args:
        connection: in autocommit mode.
        older: the time; of the days of call lists, whole days pass.
    """
    with connection.transaction():
        for table, columns in AGEING.items():
            assignments = ", ".join(f"{column} = {column} - %(older)s" for column in columns)
            connection.execute(
                f"update {table} set {assignments}",  # noqa: S608  the names are those above
                {"older": older},
            )
        connection.execute("update retention_list_entries set day = day - %s", (older.days,))


def new_config(schema: CustomerSchema) -> CasesConfig:
    """Return the configuration of a team without a control group that calls ten customers a day."""
    return CasesConfig(
        schema=schema,
        policy=ContactPolicy(threshold=0.7, cool_off=timedelta(days=30), expiry=timedelta(days=14)),
        value=CallValue(),
        control_share=0.0,
        cases_per_day=10,
        timezone=ZoneInfo("UTC"),
        customer_url="",
    )


def new_team(connection: psycopg.Connection, schema: CustomerSchema, **changes: Any) -> Team:
    """Return a team that has called nobody.

    Args:
        connection: to an empty database of the schema's customers, in autocommit mode.
        schema: of the bank's customers.
        changes: other values than those of `new_config`.
    """
    return Team(connection, FollowedLedger(connection), replace(new_config(schema), **changes))
