"""Fixtures of the worker's tests."""

from collections.abc import Iterator

import psycopg
import pytest

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.worker.teams import Team, new_team


@pytest.fixture
def team(database: str, bank_schema: CustomerSchema) -> Iterator[Team]:
    """A team without a control group that calls ten customers a day, and has called nobody."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield new_team(connection, bank_schema)
