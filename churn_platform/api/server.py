"""Runs the API's web server."""

import gc
import sys
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from churn_platform import web_server
from churn_platform.api.app import create_app
from churn_platform.api.config import api_config
from churn_platform.settings import Settings

STOP_SECONDS: Final = 10
"""Requests in flight may take so long to finish when the server stops."""
MOST_CONNECTIONS: Final = 1000
"""More are answered with 503, so that bodies do not fill the memory."""
SWITCH_SECONDS: Final = 0.0005
"""After this time the thread that scores lets another one run. With Python's 5 ms, a small request would wait for as
long each time that its own thread wants to run while a large one is decoded."""


def run(settings: Settings, *, host: str | None = None, port: int | None = None) -> None:
    """Serve the API until SIGTERM or SIGINT.

    Args:
        settings: of the installation.
        host: where to listen; None: API_HOST.
        port: where to listen; None: API_PORT.

    Raises:
        SettingsError: the database is not configured.
        SchemaError: the customer schema is missing or invalid.
        ApiError: it would be open to other machines without a token, or the file of tokens cannot be read.
    """
    host = host or settings.api.host
    app = create_app(api_config(settings, host=host))
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # what is loaded now stays, so nobody has to look for garbage in it while requests wait
    server_of(app, host=host, port=port or settings.api.port).run()


def server_of(app: ASGIApp, *, host: str, port: int) -> uvicorn.Server:
    """Return the web server of an application from `create_app`, which does not listen yet. Port 0: any free one."""
    return web_server.server_of(app, host=host, port=port, stop_seconds=STOP_SECONDS, most_connections=MOST_CONNECTIONS)
