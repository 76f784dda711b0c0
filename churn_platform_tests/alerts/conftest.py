"""Fixtures: a database with an outbox, and messages in it."""

from collections.abc import Iterator

import psycopg
import pytest

from churn_platform.database.connections import connect


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A session like that of a duty, in a migrated database."""
    with connect(database, application_name="churn worker test", autocommit=True) as connection:
        yield connection
