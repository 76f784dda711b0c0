"""A separate broker, whose log files a test may truncate while it is stopped."""

import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from churn_platform.local import kafka
from churn_platform.local.part import Part
from churn_platform.local.ports import HOST, Ports
from churn_platform_tests.waiting import wait_until

# The header of a record batch (magic 2): base offset, length of the rest of the batch, leader epoch, magic, checksum,
# attributes, last offset delta.
_HEAD = struct.Struct(">qiibIhi")
_BEFORE_LENGTH = 12


@dataclass
class Broker:
    """One broker that can be stopped, killed, and started again on the same data."""

    part: Part
    data: Path
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.part.command, cwd=self.log.parent, stdout=output, stderr=output, env=dict(os.environ)
            )
        process = self.process
        wait_until(
            lambda: process.poll() is not None or self.part.ready(0), timeout=90, what="the test's broker to answer"
        )
        assert process.poll() is None, self.log.read_text()[-3000:]

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> None:
        """End it: with SIGTERM it closes its logs, with SIGKILL it does not."""
        if self.process is not None:
            self.process.send_signal(signal_number)
            self.process.wait(60)
            self.process = None

    def cut(self, topic: str, partition: int, offset: int) -> None:
        """Truncate the log of a stopped broker at this offset, where a record batch has to begin."""
        assert self.process is None
        folder = self.data / f"{topic}-{partition}"
        [segment] = folder.glob("*.log")
        content = segment.read_bytes()
        at = 0
        while at < len(content):
            base, length, _, _, _, _, last_delta = _HEAD.unpack_from(content, at)
            if base + last_delta >= offset:
                break
            at += _BEFORE_LENGTH + length
        else:
            raise AssertionError(f"{segment} ends before offset {offset}")
        assert base == offset, f"a batch holds offsets {base}..{base + last_delta}; truncate where one begins"
        with segment.open("r+b") as file:
            file.truncate(at)


@contextmanager
def own_broker(folder: Path) -> Iterator[Broker]:
    """Start a broker with an empty log."""
    folder.mkdir(parents=True)
    ports = Ports(folder / "ports.json", dict.fromkeys(("broker", "controller"), 0))
    ports.choose()
    part = kafka.part(folder=folder / "kafka", port=ports["broker"], controller_port=ports["controller"])
    part.prepare(lambda _: None)
    broker = Broker(part, folder / "kafka" / "data", folder / "broker.log")
    try:
        broker.start()
        ports.release()
        yield broker
    finally:
        broker.stop(signal.SIGKILL)


def bootstrap_servers(broker: Broker) -> str:
    """Return the address for clients."""
    assert broker.part.address.startswith(HOST)
    return broker.part.address
