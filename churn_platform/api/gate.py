"""What every request passes first: the check of its host, its token and its rate; then headers, errors and figures."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from churn_platform.api.config import ApiConfig
from churn_platform.api.exceptions import ProblemError
from churn_platform.api.metrics import Metrics
from churn_platform.api.problems import error_response
from churn_platform.api.rate_limit import RateLimit
from churn_platform.api.tokens import TokenFile

OPEN_PATHS: Final = ("/healthz", "/readyz")
"""They need no token, because what probes them has none. They say nothing about customers."""
HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_RAW_HEADERS: Final = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
_SCHEME: Final = "bearer "
_UNMATCHED: Final = "other"
"""Stands for a path that does not exist, and for the method of such a request: anybody may send any text there."""
LOCAL_CLIENT: Final = "local"
"""Names whoever uses an API that needs no token."""


class Gate:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, config: ApiConfig, metrics: Metrics) -> None:
        """Wrap it.

        Args:
            app: answers the requests that pass.
            config: says who may send them.
            metrics: counts them.

        Raises:
            ApiError: the file of tokens cannot be read.
        """
        self._app = app
        self._metrics = metrics
        self._hosts = frozenset(config.hosts)
        self._tokens = None if config.tokens_file is None else TokenFile(config.tokens_file)
        self._limit = RateLimit(config.requests_per_second)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0  # until an answer has begun

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_RAW_HEADERS]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, answer)
        except (ProblemError, HTTPException) as error:
            if status:
                raise
            await error_response(error, method=scope["method"])(scope, receive, answer)
        except Exception as error:
            if not status:
                await error_response(error, method=scope["method"])(scope, receive, answer)
            raise  # the server logs it, and closes the connection if an answer has begun
        finally:
            route = getattr(scope.get("route"), "path", _UNMATCHED)
            self._metrics.count_request(
                method=_UNMATCHED if route == _UNMATCHED else scope["method"],
                route=route,
                status=status or 500,
                seconds=time.perf_counter() - started,
            )

    def _check(self, scope: Scope) -> None:
        """Check whether a request may be answered.

        Raises:
            ProblemError: it may not.
        """
        name = LOCAL_CLIENT
        if scope["path"] in OPEN_PATHS:
            return
        if self._tokens is None:
            self._check_host(first_header(scope, b"host").decode("latin-1"))
        else:
            name = _named(self._tokens, first_header(scope, b"authorization").decode("latin-1"))
        wait = self._limit.take(name)
        if wait > 0:
            raise ProblemError(
                429,
                "Too many requests",
                f"The token {name} has made more requests than API_REQUESTS_PER_SECOND allows.",
                retry_after=int(wait) + 1,
            )

    def _check_host(self, host: str) -> None:
        """Refuse pages of other sites: a browser on this machine may be made to believe that they are at localhost.

        Raises:
            ProblemError: the request was sent to another name.
        """
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name not in self._hosts:
            raise ProblemError(
                421,
                "Misdirected request",
                f"Without API_TOKENS, requests are answered only under these names: {', '.join(sorted(self._hosts))}.",
            )


def first_header(scope: Scope, name: bytes) -> bytes:
    """Return the value of the first header with this name, in lower case; empty if there is none."""
    for each, value in scope["headers"]:
        if each == name:
            found: bytes = value
            return found
    return b""


def _named(tokens: TokenFile, authorization: str) -> str:
    """Return the name of the token that was sent.

    Raises:
        ProblemError: none was sent, or it is not valid.
    """
    if not authorization.lower().startswith(_SCHEME):
        raise ProblemError(401, "A token is needed", "Send the header 'Authorization: Bearer TOKEN'.")
    token = tokens.find(authorization[len(_SCHEME) :].strip(), now=datetime.now(UTC))
    if token is None:
        raise ProblemError(401, "The token is not valid", "It is unknown, was removed, or has expired.")
    return token.name
