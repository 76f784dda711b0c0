"""The load generator of the benchmark of the prediction API, in a process of its own.

It reads its work from stdin, as JSON, and writes what it measured to stdout.
"""

import asyncio
import json
import re
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

MOST_CONNECTIONS: Final = 500
_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Work:
    """What to send.

    Attributes:
        url: where to.
        bodies: JSON texts, which are sent one after the other, again and again.
        seconds: how long.
        rate: requests a second, whether or not they are answered in time; None: the next one follows an answer.
        connections: without a rate, how many requests are in flight.
    """

    url: str
    bodies: list[str]
    seconds: float
    rate: float | None = None
    connections: int = 1


@dataclass(frozen=True)
class Measured:
    """What was measured. Times are in milliseconds, from when a request was due until its answer was complete."""

    requests: int
    failed: int
    seconds: float
    p50: float
    p99: float
    worst: float
    own_cpu_seconds: float


@dataclass
class _Load:
    """The requests, and the times of their answers."""

    work: Work
    requests: list[bytes]
    times: list[float] = field(default_factory=list)
    failed: int = 0
    sent: int = 0

    def next(self) -> bytes:
        """Return the next request."""
        self.sent += 1
        return self.requests[self.sent % len(self.requests)]


class _Connection(asyncio.Protocol):
    """A kept connection, on which one request at a time is in flight."""

    def __init__(self, load: _Load, is_free: Callable[["_Connection"], None]) -> None:
        self._load = load
        self._is_free = is_free
        self._received = bytearray()
        self._due = 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop has the methods of a WriteTransport, but another base class.
        self._transport = cast("asyncio.WriteTransport", transport)

    def send(self, due: float) -> None:
        """Send the next request, which was due at this time."""
        if self._transport is None:
            raise RuntimeError("The connection is not open.")
        self._due = due
        self._transport.write(self._load.next())

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._received, 0, head)
        if length is None or len(self._received) < head + 4 + int(length[1]):
            return
        self._load.times.append(time.perf_counter() - self._due)
        self._load.failed += not self._received.startswith(b"HTTP/1.1 200 ")
        self._received.clear()
        self._is_free(self)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def run(work: Work) -> Measured:
    """Send the requests."""
    place = urlsplit(work.url)
    head = f"POST {place.path} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\ncontent-length: "
    load = _Load(work, [f"{head}{len(body.encode())}\r\n\r\n{body}".encode() for body in work.bodies])
    started = time.perf_counter()
    await (_at_rate(load, work.rate) if work.rate is not None else _one_after_the_other(load))
    took = time.perf_counter() - started
    times = np.array(load.times) * 1000
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Measured(
        requests=len(times),
        failed=load.failed,
        seconds=took,
        p50=float(np.percentile(times, 50)),
        p99=float(np.percentile(times, 99)),
        worst=float(times.max()),
        own_cpu_seconds=used.ru_utime + used.ru_stime,
    )


async def _connect(load: _Load, is_free: Callable[[_Connection], None]) -> _Connection:
    place = urlsplit(load.work.url)
    if place.hostname is None or place.port is None:
        raise ValueError(f"{load.work.url} has no host or no port.")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: _Connection(load, is_free), place.hostname, place.port)
    return connection


async def _at_rate(load: _Load, rate: float) -> None:
    """Send each request when it is due. One that finds no free connection waits, and its time counts."""
    free: deque[_Connection] = deque()
    waiting: deque[float] = deque()

    def is_free(connection: _Connection) -> None:
        if waiting:
            connection.send(waiting.popleft())
        else:
            free.append(connection)

    connections = [await _connect(load, is_free) for _ in range(min(MOST_CONNECTIONS, max(8, round(rate / 10))))]
    free.extend(connections)
    start, count = time.perf_counter(), round(rate * load.work.seconds)
    for number in range(count):
        due = start + number / rate
        pause = due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        if free:
            free.popleft().send(due)
        else:
            waiting.append(due)
    while len(load.times) < count:
        await asyncio.sleep(0.01)
    for connection in connections:
        connection.close()


async def _one_after_the_other(load: _Load) -> None:
    end = time.perf_counter() + load.work.seconds
    finished = asyncio.Event()
    ended = 0

    def is_free(connection: _Connection) -> None:
        nonlocal ended
        now = time.perf_counter()
        if now < end:
            connection.send(now)
            return
        ended += 1
        if ended == load.work.connections:
            finished.set()

    connections = [await _connect(load, is_free) for _ in range(load.work.connections)]
    for connection in connections:
        connection.send(time.perf_counter())
    await finished.wait()
    for connection in connections:
        connection.close()


if __name__ == "__main__":
    measured = uvloop.run(run(Work(**json.load(sys.stdin))))
    json.dump(asdict(measured), sys.stdout)
