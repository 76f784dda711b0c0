"""What protects the pages: the headers of each answer, and the check of each request that changes something."""

import hmac
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Scripts and data come from this server alone, and none is written into a page. Plotly sets styles on elements.
CONTENT_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS: Final = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
MOST_FORM_BYTES: Final = 64 * 1024


class SecureHeaders:
    """Adds the headers to each answer. Pages are not stored by the browser, unless they say so themselves."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def comes_from_here(headers: Headers, *, origin: str) -> bool:
    """Return whether a request that changes something comes from a page of this server.

    Browsers send Origin with each form. Its host has to be the one that the request was sent to, or the public one:
    some proxies replace the host. Browsers of our time also say in Sec-Fetch-Site what they have found themselves.

    Args:
        headers: of the request.
        origin: of the public address, such as https://churn.example.com; empty if there is none.
    """
    host = headers.get("host", "")
    ours = {f"http://{host}", f"https://{host}", *([origin] if origin else [])}
    return headers.get("origin", "") in ours and headers.get("sec-fetch-site", "same-origin") == "same-origin"


def is_same(given: str, expected: str) -> bool:
    """Return whether a secret that was sent is the expected one. The time it takes says nothing about it."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())
