"""What pages about customers need in tests: summaries that the worker's duty keeps, and somebody who calls nobody."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.local.ports import HOST
from churn_platform.retention.arm import CONTROL
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform_tests.dashboard.site import Site, serving

VIEWER = {"x-forwarded-user": "ana"}
"""Headers of a request of somebody with the role viewer."""


def summarize(connection: psycopg.Connection, schema: CustomerSchema, *, control_share: float = 0.0) -> None:
    """Let the worker's duty follow all predictions."""
    duty = SummariesDuty(SummariesConfig(schema=schema, control_share=control_share))
    while duty.run(connection):
        pass


def add_case(connection: psycopg.Connection, customer: int, *, arm: str) -> None:
    """Open a case of a customer whom the summaries have, as it was opened when everybody was in this arm."""
    connection.execute(
        "insert into retention_cases (customer_id, arm, control_share, event_id, event_timestamp, kafka_offset, "
        "model_version, risk_score, highest_risk_score, priority, segments) "
        "select customer_id, %s, %s, event_id, event_timestamp, kafka_offset, model_version, risk_score, risk_score, "
        "1, segments from customer_summary where customer_id = %s",
        (arm, 1.0 if arm == CONTROL else 0.0, customer),
    )


@contextmanager
def as_viewer(config: DashboardConfig) -> Iterator[Site]:
    """Serve the dashboard to somebody who sees everything and changes nothing."""
    with serving(replace(config, proxy=HOST)) as site:
        site.client.headers.update(VIEWER)
        yield site
