"""Runs the dashboard's web server."""

import logging

import uvicorn

from churn_platform.dashboard.app import create_app
from churn_platform.dashboard.config import dashboard_config
from churn_platform.settings import Settings

STOP_SECONDS = 5


def run(settings: Settings, *, host: str | None = None, port: int | None = None) -> None:
    """Serve the dashboard until SIGTERM or SIGINT.

    Args:
        settings: of the installation.
        host: where to listen; None: DASHBOARD_HOST.
        port: where to listen; None: DASHBOARD_PORT.

    Raises:
        SettingsError: the database is not configured.
        SchemaError: the customer schema is missing or invalid.
        DashboardError: it would be open to other machines without a login, or the file of users cannot be read.
    """
    host = host or settings.dashboard.host
    app = create_app(dashboard_config(settings, host=host))
    uvicorn.run(
        app,
        host=host,
        port=port or settings.dashboard.port,
        log_config=None,
        access_log=False,  # addresses hold ids of customers
        server_header=False,
        proxy_headers=False,  # the address of a proxy is what the settings compare
        timeout_graceful_shutdown=STOP_SECONDS,
    )


def configure_log() -> None:
    """Write the log to stderr, a line for each message, with the time in UTC."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # pages report when PostgreSQL does not answer
