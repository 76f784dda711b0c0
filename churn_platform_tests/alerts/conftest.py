"""Fixtures: a database with an outbox, and messages in it."""

from collections.abc import Iterator

import psycopg
import pytest

from churn_platform.database.connections import connect
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.worker.teams import Team, new_team


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A session like that of a duty, in a migrated database."""
    with connect(database, application_name="churn worker test", autocommit=True) as connection:
        yield connection


@pytest.fixture
def team(connection: psycopg.Connection, bank_schema: CustomerSchema) -> Team:
    """A retention team and the duty that keeps its cases."""
    return new_team(connection, bank_schema)
