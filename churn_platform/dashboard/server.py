"""Runs the dashboard's web server."""

import uvicorn
from starlette.types import ASGIApp

from churn_platform import web_server
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
    """Return the web server of an application from `create_app`, which does not listen yet. Port 0: any free one."""
    return web_server.server_of(app, host=host, port=port, stop_seconds=STOP_SECONDS)
