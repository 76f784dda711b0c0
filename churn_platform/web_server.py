"""What the web servers of the dashboard and of the API have in common."""

import logging

import uvicorn
from starlette.types import ASGIApp

from churn_platform import logs
from churn_platform.logs import LogFormat


def server_of(
    app: ASGIApp, *, host: str, port: int, stop_seconds: int, most_connections: int | None = None
) -> uvicorn.Server:
    """Return the web server of an application, which does not listen yet.

    Args:
        app: the application.
        host: where to listen.
        port: where to listen; 0: any free port.
        stop_seconds: how long requests in flight may take to finish when the server stops.
        most_connections: more are answered with 503; None for no limit.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # addresses hold ids of customers
        server_header=False,
        # Without this, whoever sends X-Forwarded-For from this machine would choose the address that a request comes
        # from: the one that is compared with that of a proxy, and that failed logins are counted for.
        proxy_headers=False,
        limit_concurrency=most_connections,
        timeout_graceful_shutdown=stop_seconds,
    )
    return uvicorn.Server(config)


def configure_log(log_format: LogFormat) -> None:
    """Write the log to stderr, a line for each message, with the time in UTC."""
    logs.configure(log_format)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # answers report when PostgreSQL does not answer
