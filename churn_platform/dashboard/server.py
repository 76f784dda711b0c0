"""Runs the dashboard's web server."""

import logging

import uvicorn
from starlette.types import ASGIApp

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
    server_of(app, host=host, port=port or settings.dashboard.port).run()


def server_of(app: ASGIApp, *, host: str, port: int) -> uvicorn.Server:
    """Return the web server of an application, which does not listen yet.

    Args:
        app: from `create_app`.
        host: where to listen.
        port: where to listen; 0: any free port.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # addresses hold ids of customers
        server_header=False,
        # Without this, whoever sends X-Forwarded-For from this machine would choose the address that is compared with
        # that of the proxy, and that failed logins are counted for.
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return uvicorn.Server(config)


def configure_log() -> None:
    """Write the log to stderr, a line for each message, with the time in UTC."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # pages report when PostgreSQL does not answer
