"""Real Prometheus and Alertmanager servers on localhost, from the distribution or from `make test-prometheus`."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from churn_platform_tests.waiting import wait_until

# Names of each binary. Debian calls Alertmanager's prometheus-alertmanager.
BINARIES = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "alertmanager": ("alertmanager", "prometheus-alertmanager"),
    "amtool": ("amtool",),
}
# Debian's packages. Each tool is in the package of its server.
PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}

EVALUATION_SECONDS = 0.5
"""Seconds between two evaluations of the rules: no alert is shorter."""


class BinaryMissingError(Exception):
    """A binary is not installed. The message says how to get it."""


def find_binary(name: str) -> str:
    """Return the path of a binary: beside this Python, or on the PATH.

    Args:
        name: a key of BINARIES.

    Raises:
        BinaryMissingError: it is at neither place.
    """
    beside = str(Path(sys.executable).parent)
    for each in BINARIES[name]:
        found = shutil.which(each, path=beside) or shutil.which(each)
        if found is not None:
            return found
    raise BinaryMissingError(
        f"{name} is not installed: 'make test-prometheus' builds it, and Debian's package {PACKAGES[name]} has it"
    )


def binary(name: str, *, required: bool) -> str:
    """Return the path of a binary. Skip the test if there is none.

    Args:
        name: a key of BINARIES.
        required: fail instead of skipping.
    """
    try:
        return find_binary(name)
    except BinaryMissingError as error:
        if required:
            pytest.fail(str(error))
        pytest.skip(str(error))


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], url: str, log: Path) -> Iterator[None]:
    """Run a server until the block ends; the block begins when it is ready."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: _is_ready(url) or process.poll() is not None, 60, url)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).is_success
    except httpx.TransportError:
        return False


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus server."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def targets(self) -> Mapping[str, str]:
        """Return the health of each target by its job."""
        answer = httpx.get(f"{self.url}/api/v1/targets", timeout=30).json()
        return {each["labels"]["job"]: each["health"] for each in answer["data"]["activeTargets"]}

    def rule_problems(self) -> dict[str, str]:
        """Return the last error of each rule that cannot be evaluated, by its name."""
        answer = httpx.get(f"{self.url}/api/v1/rules", timeout=30).json()
        rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
        return {rule["name"]: rule.get("lastError", rule["health"]) for rule in rules if rule["health"] != "ok"}

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        answer = httpx.get(f"{self.url}/api/v1/alerts", timeout=30).json()
        return {each["labels"]["alertname"] for each in answer["data"]["alerts"] if each["state"] == "firing"}


@contextmanager
def prometheus(
    program: str,
    folder: Path,
    *,
    rules: Mapping[str, Any],
    targets: Mapping[str, str],
    alertmanager: str = "",
    interval: str = "1s",
) -> Iterator[Prometheus]:
    """Run Prometheus.

    Args:
        program: path of the binary.
        folder: for its configuration and its data.
        rules: content of the file of rules.
        targets: host:port to scrape, by job.
        alertmanager: host:port of the Alertmanager; empty for none.
        interval: between two scrapes, which is also their time-out. Rules are evaluated every
            EVALUATION_SECONDS.
    """
    port = free_port()
    (folder / "rules.yml").write_text(yaml.safe_dump(dict(rules)))
    configuration: dict[str, Any] = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": f"{EVALUATION_SECONDS * 1000:.0f}ms",
        },
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()
        ],
    }
    if alertmanager:
        configuration["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    url = f"http://127.0.0.1:{port}"
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with _running(command, url, folder / "prometheus.log"):
        yield Prometheus(url)


@contextmanager
def alertmanager(program: str, folder: Path, *, configuration: Mapping[str, Any]) -> Iterator[str]:
    """Run Alertmanager; yield its host:port."""
    port = free_port()
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(dict(configuration)))
    command = [
        program,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",  # one server, without a cluster
    ]
    with _running(command, f"http://127.0.0.1:{port}", folder / "alertmanager.log"):
        yield f"127.0.0.1:{port}"


def wait_for_rows(server: Prometheus, expression: str, *, seconds: float = 30) -> None:
    """Wait until an expression has series."""
    deadline = time.monotonic() + seconds
    wait_until(lambda: server.query(expression), max(1.0, deadline - time.monotonic()), expression)
