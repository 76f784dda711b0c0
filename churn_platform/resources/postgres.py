"""PostgreSQL for assets and sensors."""

import dagster as dg
import psycopg

from churn_platform.connections import connect
from churn_platform.settings import settings


class PostgresResource(dg.ConfigurableResource["PostgresResource"]):
    """Connections to the platform's database, as the settings name it. It holds no secret of its own."""

    def connect(self, application_name: str) -> psycopg.Connection:
        """A connection; as a context manager it commits at the end, or rolls back on an error, and closes.

        Raises:
            SettingsError: no database is configured and the embedded one is not up.
            psycopg.OperationalError: the database does not answer.
        """
        return connect(settings().postgres_dsn, application_name=application_name)
