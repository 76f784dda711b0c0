"""Databases of the two data sets in the repository."""

import itertools
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from churn_platform.database.migrations import Upgraded, upgrade
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT

_number = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """A migrated database that nobody else uses: connection strings of its owner and of the platform's own login."""

    owner: str
    writer: str
    created: Upgraded

    def upgrade(self, schema: CustomerSchema) -> Upgraded:
        """Bring it in line with a schema."""
        return upgrade(self.owner, schema)


def new_database(stack: Stack, schema: CustomerSchema) -> Database:
    """A database for the customers of a schema."""
    name = f"customers_{next(_number)}"
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    owner = make_conninfo(stack.owner_dsn, dbname=name)
    return Database(owner, make_conninfo(stack.addresses["postgres"], dbname=name), upgrade(owner, schema))


@pytest.fixture(scope="session", params=["bank", "subscribers"])
def any_schema(request: pytest.FixtureRequest) -> CustomerSchema:
    """The schema of each data set."""
    return load_schema(PROJECT_ROOT / f"data/{request.param}/schema.toml")


@pytest.fixture(scope="session")
def any_database(stack: Stack, any_schema: CustomerSchema) -> Database:
    """The database of this data set, shared by tests that only read, or roll back."""
    return new_database(stack, any_schema)


@pytest.fixture
def bank_database(stack: Stack, bank_schema: CustomerSchema) -> Database:
    """A database of the test's own, with the default data set."""
    return new_database(stack, bank_schema)
