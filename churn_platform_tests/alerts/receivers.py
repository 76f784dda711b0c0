"""Real receivers on localhost: an SMTP server and an HTTP server that accept, refuse, hang, or drop their answer."""

import email
import email.policy
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from churn_platform_tests.waiting import wait_until


class Behaviour(StrEnum):
    """What a receiver does with a message."""

    ACCEPT = "accept"
    REFUSE_NOW = "refuse now"
    """Refuse, in a way that asks for another attempt."""
    REFUSE = "refuse"
    """Refuse for good."""
    HANG = "hang"
    """Answer nothing until the sender gives up, and keep nothing."""
    DROP = "drop"
    """Keep the message, and close the connection instead of answering."""


Choice = Callable[[str], Behaviour]
Moment = Callable[[str, str], None]
"""Called with "before" or "after" (the message is kept) and the key of the message, in the receiver's thread."""


def always(behaviour: Behaviour) -> Choice:
    """Do the same with every message."""
    return lambda _: behaviour


def accept(_key: str) -> Behaviour:
    """Accept every message."""
    return Behaviour.ACCEPT


def nothing(_moment: str, _key: str) -> None:
    """Let a moment pass."""


class HttpReceiver:
    """An HTTP server that counts what it keeps, by the idempotency key."""

    def __init__(self, choose: Choice = accept, *, moment: Moment = nothing) -> None:
        self.choose, self.moment = choose, moment
        self.kept: Counter[str] = Counter()
        self.requests: list[tuple[str, Mapping[str, str], dict[str, Any]]] = []
        self.status = {Behaviour.ACCEPT: 204, Behaviour.REFUSE_NOW: 503, Behaviour.REFUSE: 410}
        self.headers: dict[str, str] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._receive(self)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Ignore senders that were killed."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _receive(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        key = str(request.headers["Idempotency-Key"])
        behaviour = self.choose(key)
        self.moment("before", key)
        self.requests.append((request.path, dict(request.headers.items()), body))
        if behaviour in (Behaviour.ACCEPT, Behaviour.DROP):
            self.kept[key] += 1
            self.moment("after", key)
        if behaviour is Behaviour.HANG:
            request.connection.recv(1)  # returns when the sender closes the connection
        if behaviour in (Behaviour.HANG, Behaviour.DROP):
            request.close_connection = True
            return
        request.send_response(self.status[behaviour])
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()


class SmtpReceiver:
    """An SMTP server that counts what it keeps, by the key in the Message-ID."""

    def __init__(
        self,
        choose: Choice = accept,
        *,
        moment: Moment = nothing,
        login: tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        refused_recipients: Mapping[str, str] | None = None,
        refused_data: str | None = None,
    ) -> None:
        self.choose, self.moment = choose, moment
        self.kept: Counter[str] = Counter()
        self.mails: list[tuple[Envelope, email.message.EmailMessage]] = []
        self._recipients, self._data = refused_recipients or {}, refused_data
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]

        def authenticate(_s: SMTP, _e: Session, _v: Envelope, _mechanism: str, given: object) -> AuthResult:
            assert isinstance(given, LoginPassword)
            return AuthResult(success=login == (given.login.decode(), given.password.decode()))

        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=port,
            ready_timeout=10,
            authenticator=authenticate if login else None,
            auth_required=login is not None,
            auth_require_tls=tls is not None,
            tls_context=tls,
        )
        self.port = port

    @property
    def url(self) -> str:
        """Its address, for a server without TLS."""
        return f"smtp://127.0.0.1:{self.port}?from=churn@example.org&to=team@example.org&tls=none"

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    async def handle_RCPT(  # noqa: N802  the name that aiosmtpd calls
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Answer to a recipient."""
        if address in self._recipients:
            return self._recipients[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Answer to the end of a message."""
        import asyncio

        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        key = str(mail["Message-ID"]).strip("<>").partition("@")[0]
        behaviour = self.choose(key)
        self.moment("before", key)
        if behaviour is Behaviour.REFUSE_NOW:
            return "451 4.7.1 Try again later"
        if behaviour is Behaviour.REFUSE or self._data:
            return self._data or "554 5.7.1 Refused"
        if behaviour is Behaviour.HANG:
            while not server.transport.is_closing():  # type: ignore[union-attr]  # there is one during a session
                await asyncio.sleep(0.01)
            return "250 OK"
        self.kept[key] += 1
        self.mails.append((envelope, mail))
        self.moment("after", key)
        if behaviour is Behaviour.DROP:
            server.transport.abort()  # type: ignore[union-attr]
        return "250 2.0.0 OK"


def wait_for(receiver: HttpReceiver, count: int, *, timeout: float = 30) -> None:
    """Wait until a receiver has kept so many messages."""
    wait_until(lambda: receiver.kept.total() >= count, timeout, f"{count} messages to arrive")
