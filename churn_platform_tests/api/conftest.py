"""Fixtures of the API's tests."""

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.api.config import ApiConfig
from churn_platform.local.environment import READER_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import Settings
from churn_platform_tests.api.running import Api, serving
from churn_platform_tests.stream.streams import register_champion

HIGH_RISK = 0.3


def config_of(stack: Stack, database: str, schema: CustomerSchema) -> ApiConfig:
    """Return the configuration of an API of this database, with the login that only reads."""
    settings = Settings()
    return ApiConfig(
        dsn=make_conninfo(stack.environment[READER_VARIABLE], dbname=str(conninfo_to_dict(database)["dbname"])),
        schema=schema,
        high_risk_threshold=HIGH_RISK,
        accepts_from=settings.stream.epoch,
        accepts_ahead=timedelta(hours=1),
        requests_per_second=1_000_000,
    )


@pytest.fixture
def config(stack: Stack, database: str, bank_schema: CustomerSchema) -> ApiConfig:
    """An API of a database that nobody else uses. Requests need no token."""
    return config_of(stack, database, bank_schema)


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A connection of the platform's own login, in autocommit mode."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def champion(database: str, bundle_uri: str) -> None:
    """A champion, version 1, which is the small bundle."""
    register_champion(database, bundle_uri)


@pytest.fixture
def api(config: ApiConfig, champion: None) -> Iterator[Api]:
    """An API with a champion. Requests need no token."""
    del champion
    with serving(config) as api:
        yield api
