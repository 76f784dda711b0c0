"""TLS in front of the embedded PostgreSQL, whose build has none: it starts TLS as PostgreSQL does, and forwards bytes.

Clients see what they see of a managed PostgreSQL: a server that requires TLS, with the certificate of a private CA.
"""

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from churn_platform.local.ports import HOST

SSL_REQUEST = 80_877_103  # the code of the message with which a client asks for TLS
CHUNK = 65_536


class TlsProxy:
    """A listening proxy. `port`: where. `plain`: how many clients went on without TLS and were turned away."""

    def __init__(self, listener: socket.socket, server_port: int, context: ssl.SSLContext) -> None:
        self.port: int = listener.getsockname()[1]
        self.plain = 0
        self._listener, self._server_port, self._context = listener, server_port, context

    def serve(self) -> None:
        """Accept clients until the listener is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._start, args=(client,), daemon=True).start()

    def _start(self, client: socket.socket) -> None:
        length, code = struct.unpack("!II", client.recv(8, socket.MSG_WAITALL))
        if (length, code) != (8, SSL_REQUEST):
            self.plain += 1
            client.close()
            return
        client.sendall(b"S")
        try:
            encrypted = self._context.wrap_socket(client, server_side=True)
        except (ssl.SSLError, OSError):  # the client does not trust the certificate
            client.close()
            return
        server = socket.create_connection((HOST, self._server_port))
        threading.Thread(target=_forward, args=(server, encrypted), daemon=True).start()
        _forward(encrypted, server)


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(CHUNK):
            target.sendall(content)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def tls_proxy(server_port: int, certificate: Path, key: Path) -> Iterator[TlsProxy]:
    """Run a proxy.

    Args:
        server_port: of the PostgreSQL on this machine.
        certificate: of the proxy.
        key: of the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server((HOST, 0)) as listener:
        proxy = TlsProxy(listener, server_port, context)
        threading.Thread(target=proxy.serve, daemon=True).start()
        yield proxy
