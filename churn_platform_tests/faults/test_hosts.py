"""Two lanes on two hosts, of which one loses its network. A network namespace is a host; the servers are in a third."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from churn_platform.local.stack import Stack
from churn_platform.operations.verification.verify import check_invariants
from churn_platform_tests.faults.lane_processes import LaneProcesses
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

IP: Final = shutil.which("ip") or "ip"
TIMEOUT: Final = 180.0
EVENTS: Final = 300


@dataclass(frozen=True)
class Host:
    """A network namespace, connected by a pair of virtual interfaces."""

    namespace: str
    link: str

    @property
    def within(self) -> Sequence[str]:
        """The command that runs another one on this host."""
        return (IP, "netns", "exec", self.namespace)

    def disconnect(self) -> None:
        """Cut the network: nothing arrives any more, and no connection is told."""
        _ip("link", "set", self.link, "down")

    def connect(self) -> None:
        """Restore the network."""
        _ip("link", "set", self.link, "up")


def _ip(*arguments: str) -> None:
    subprocess.run([IP, *arguments], check=True, capture_output=True)


def _can_create_namespaces() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which(IP) is None:
        return False
    name = f"churn-probe-{os.getpid()}"
    created = subprocess.run([IP, "netns", "add", name], check=False, capture_output=True).returncode == 0
    if created:
        _ip("netns", "delete", name)
    return created


@pytest.fixture
def hosts(stack: Stack) -> Iterator[list[Host]]:
    """Two hosts that reach Kafka and PostgreSQL at the same addresses as this one."""
    if not _can_create_namespaces():
        pytest.skip("network namespaces need root on Linux, and iproute2")
    ports = [stack.addresses["kafka"].rpartition(":")[2], str(urlsplit(stack.addresses["postgres"]).port)]
    forwarders: list[subprocess.Popen[bytes]] = []
    found: list[Host] = []

    def forward(within: Sequence[str], listen: str, target: str) -> None:
        command = [*within, sys.executable, "-m", "churn_platform_tests.faults.forwarder"]
        forwarders.append(subprocess.Popen([*command, *(f"{listen}:{port}={target}:{port}" for port in ports)]))

    try:
        for number in range(2):
            host = Host(f"churn-{os.getpid()}-{number}", f"churn{os.getpid() % 100_000}n{number}")
            near, far, inner = f"10.213.{number}.1", f"10.213.{number}.2", f"inner{number}"
            _ip("netns", "add", host.namespace)
            found.append(host)
            _ip("link", "add", host.link, "type", "veth", "peer", "name", inner, "netns", host.namespace)
            _ip("address", "add", f"{near}/24", "dev", host.link)
            host.connect()
            for arguments in (
                ("address", "add", f"{far}/24", "dev", inner),
                ("link", "set", inner, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", host.namespace, *arguments)
            forward((), near, "127.0.0.1")
            forward(host.within, "127.0.0.1", near)
        yield found
    finally:
        for process in forwarders:
            process.kill()
            process.wait()
        for host in found:
            _ip("netns", "delete", host.namespace)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_lane_whose_host_loses_its_network_continues_on_another_host(
    stream: Stream, stack: Stack, hosts: Sequence[Host], tmp_path: Path
) -> None:
    here, lost = hosts

    def rows(partitions: Sequence[int]) -> object:
        return stream.connection.execute(
            "select count(*) from churn_predictions where kafka_partition = any(%s)", (list(partitions),)
        ).fetchone()

    with LaneProcesses(stream, stack.environment, folder=tmp_path, batch_seconds=60, standbys=False) as processes:
        processes.start(2, within=[here.within, lost.within])
        stream.send([event(number) for number in range(EVENTS)])
        wait_until(lambda: stream.value("select count(*) from churn_predictions") == EVENTS, TIMEOUT)
        before = processes.sessions()[1].holder

        lost.disconnect()
        stream.send([event(number) for number in range(EVENTS)])
        wait_until(lambda: rows([0, 2]) == (2 * EVENTS * 2 // 3,), TIMEOUT, "the other lane to continue")
        wait_until(lambda: processes.sessions()[1].holder is None, TIMEOUT, "the end of the lost lane's lease")
        processes.add(1, within=here.within)
        wait_until(lambda: rows([1]) == (2 * EVENTS // 3,), TIMEOUT, "the lost lane to continue on the other host")
        after = processes.sessions()[1].holder

        lost.connect()
        stream.send([event(number) for number in range(EVENTS)])
        wait_until(lambda: bool(processes.sessions()[1].waiting), TIMEOUT, "the run that was cut off to wait")
        wait_until(lambda: stream.value("select count(*) from churn_predictions") == 3 * EVENTS, TIMEOUT)
        wait_until(lambda: len(stream.published()) == 3 * EVENTS, TIMEOUT)

    assert before != after
    assert stream.published_ids() == stream.table_ids()
    assert [each for each in check_invariants(stream.config) if not each.holds] == []
