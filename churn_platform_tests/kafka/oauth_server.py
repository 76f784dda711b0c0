"""An OAuth server for tests: it issues tokens for client credentials over HTTPS, and publishes their key."""

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from churn_platform.local.ports import HOST

AUDIENCE: Final = "kafka"
ISSUER: Final = "https://login.of-the-tests.example"
SCOPE: Final = "kafka.write"
KEY_ID: Final = "of the tests"
CLIENTS: Final[Mapping[str, str]] = {"churn": "cl1ent/s3cret+=", "intruder": "other-s3cret"}
"""Secrets by client id."""


@dataclass
class OauthServer:
    """The server.

    Attributes:
        token_url: where clients get tokens.
        keys_url: where brokers get the key that verifies them. It is not secret.
        lifetime_seconds: of the tokens that it issues from now on.
        issued: the scopes of the tokens that it has issued.
    """

    token_url: str = ""
    keys_url: str = ""
    lifetime_seconds: int = 300
    issued: list[str] = field(default_factory=list)
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def token(self, client: str, scope: str) -> str:
        """Return a signed token."""
        now = int(time.time())
        claims = {"sub": client, "iss": ISSUER, "aud": AUDIENCE, "scope": scope, "iat": now}
        return jwt.encode(
            {**claims, "exp": now + self.lifetime_seconds}, self.key, algorithm="RS256", headers={"kid": KEY_ID}
        )

    @property
    def keys(self) -> dict[str, object]:
        """The JSON Web Key Set."""
        public = json.loads(RSAAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**public, "kid": KEY_ID, "use": "sig", "alg": "RS256"}]}


@contextmanager
def oauth_server(certificate: Path, key: Path) -> Iterator[OauthServer]:
    """Run the server.

    Args:
        certificate: of the address where it issues tokens.
        key: of the certificate.
    """
    server = OauthServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(HTTPStatus.OK, server.keys)

        def do_POST(self) -> None:
            kind, _, login = self.headers["Authorization"].partition(" ")
            client, _, secret = base64.b64decode(login).decode().partition(":")
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            if kind != "Basic" or form["grant_type"] != ["client_credentials"] or CLIENTS.get(client) != secret:
                self._answer(HTTPStatus.UNAUTHORIZED, {"error": "invalid_client"})
                return
            scope = form.get("scope", [""])[0]
            server.issued.append(scope)
            token = server.token(client, scope)
            self._answer(
                HTTPStatus.OK,
                {"access_token": token, "token_type": "Bearer", "expires_in": server.lifetime_seconds, "scope": scope},
            )

        def _answer(self, status: HTTPStatus, body: Mapping[str, object]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ExitStack() as running:
        tokens, keys = (running.enter_context(ThreadingHTTPServer((HOST, 0), Handler)) for _ in range(2))
        tokens.socket = context.wrap_socket(tokens.socket, server_side=True)
        for each in (tokens, keys):
            thread = threading.Thread(target=each.serve_forever, daemon=True)
            thread.start()
            running.callback(thread.join)
            running.callback(each.shutdown)
        server.token_url = f"https://{HOST}:{tokens.server_port}/token"
        server.keys_url = f"http://{HOST}:{keys.server_port}/keys"
        yield server
