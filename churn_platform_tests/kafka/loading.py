"""A relay in front of a broker that answers as one that has just started: it has no producer ids yet."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

INIT_PRODUCER_ID = 22  # a key of Kafka's protocol: "api key"
FIRST_FLEXIBLE_VERSION = 2  # from this version of that request on, the header of an answer ends with a byte more
COORDINATOR_LOAD_IN_PROGRESS = 14


@dataclass
class LoadingRelay:
    """Passes everything on, with its own address in place of the broker's.

    Attributes:
        port: of the broker.
        answers: how many first requests for a producer id are answered with COORDINATOR_LOAD_IN_PROGRESS.
        own_port: where the relay listens.
        refused: how many requests were answered so.
    """

    port: int
    answers: int
    own_port: int = 0
    refused: int = 0
    _requests: dict[int, int] = field(default_factory=dict)

    def to_broker(self, frame: bytes) -> bytes:
        """Note a request for a producer id, and return what the broker gets."""
        key, version, correlation = struct.unpack_from(">hhi", frame)
        if key == INIT_PRODUCER_ID:
            self._requests[correlation] = version
        return frame

    def to_client(self, frame: bytes) -> bytes:
        """Return the answer that the client gets."""
        (correlation,) = struct.unpack_from(">i", frame)
        version = self._requests.pop(correlation, None)
        if version is not None and self.refused < self.answers:
            self.refused += 1
            at = 4 + (version >= FIRST_FLEXIBLE_VERSION) + 4  # behind the correlation id and the throttle time
            return frame[:at] + struct.pack(">h", COORDINATOR_LOAD_IN_PROGRESS) + frame[at + 2 :]
        host = b"127.0.0.1"
        return frame.replace(host + struct.pack(">i", self.port), host + struct.pack(">i", self.own_port))


@contextmanager
def loading_relay(port: int, *, answers: int) -> Iterator[LoadingRelay]:
    """Relay connections to the broker at this port of localhost until the block ends."""
    relay = LoadingRelay(port, answers)
    with ExitStack() as sockets, socket.create_server(("127.0.0.1", 0)) as server:
        relay.own_port = server.getsockname()[1]

        def accept() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    client, broker = server.accept()[0], socket.create_connection(("127.0.0.1", port))
                    for end in (client, broker):
                        sockets.callback(_close, end)
                    for source, target, change in (
                        (client, broker, relay.to_broker),
                        (broker, client, relay.to_client),
                    ):
                        threading.Thread(target=_pass_on, args=(source, target, change), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield relay
        finally:
            _close(server)
            accepting.join()


def _pass_on(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
    """Pass frames on until one of the connections ends."""
    with suppress(OSError), source.makefile("rb") as stream:
        while head := stream.read(4):
            frame = change(stream.read(struct.unpack(">i", head)[0]))
            target.sendall(struct.pack(">i", len(frame)) + frame)
    _close(target)


def _close(connection: socket.socket) -> None:
    with suppress(OSError):  # it is not connected
        connection.shutdown(socket.SHUT_RDWR)  # a thread that waits for it goes on
    connection.close()
