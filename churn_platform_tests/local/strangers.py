"""Real servers that do not belong to the stack but listen at the address of an embedded server."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import psutil

from churn_platform.deployment.health import code_server_serves, http_server_answers
from churn_platform.local import kafka, postgres
from churn_platform.local.listening import listens
from churn_platform.local.part import Part
from churn_platform.local.ports import HOST, Ports
from churn_platform_tests.waiting import wait_until

ANSWER_SECONDS = 90


@contextmanager
def stranger(name: str, place: int | Path, folder: Path) -> Iterator[Callable[[], int]]:
    """Run a real server of this kind at this place, and yield a function that returns which of its processes listens.

    Args:
        name: name of the part at whose address it listens.
        place: port of localhost, or Unix socket.
        folder: folder for its data.
    """
    with KINDS[name](place, folder) as listening:
        yield listening


@contextmanager
def _running(
    command: tuple[str, ...],
    place: int | Path,
    answers: Callable[[], bool],
    folder: Path,
    *,
    user: str | None = None,
    given: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Callable[[], int]]:
    with (folder / "stranger.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, user=user, env={**os.environ, **given}, start_new_session=True
        )
    try:
        wait_until(lambda: process.poll() is not None or answers(), ANSWER_SECONDS, "the stranger to answer")
        assert process.poll() is None, (folder / "stranger.log").read_text()[-3000:]
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        yield lambda: next((each.pid for each in family if listens(each.pid, place)), 0)
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # it has its own session, so its child processes end with it
        process.wait(30)


@contextmanager
def _of_part(part: Part, folder: Path) -> Iterator[Callable[[], int]]:
    part.prepare(lambda _: None)
    with _running(part.command, part.listens_at[0], lambda: part.ready(0), folder, user=part.user) as listening:
        yield listening


@contextmanager
def _kafka(place: int | Path, folder: Path) -> Iterator[Callable[[], int]]:
    ports = Ports(folder / "ports.json", {"controller": 0})
    ports.choose()
    part = kafka.part(folder=folder / "kafka", port=int(str(place)), controller_port=ports["controller"])
    with _of_part(part, folder) as listening:
        ports.release()
        yield listening


@contextmanager
def _postgres(place: int | Path, folder: Path) -> Iterator[Callable[[], int]]:
    part = postgres.part(folder=folder / "postgres", port=int(str(place)), password=secrets.token_urlsafe())
    with _of_part(part, folder) as listening:
        yield listening


@contextmanager
def _mlflow(place: int | Path, folder: Path) -> Iterator[Callable[[], int]]:
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", HOST, "--port", str(place)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", str(folder / "files")),
    )
    given = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _running(
        command, place, lambda: http_server_answers(f"http://{HOST}:{place}/health"), folder, given=given
    ) as listening:
        yield listening


@contextmanager
def _webserver(place: int | Path, folder: Path) -> Iterator[Callable[[], int]]:
    command = (
        *(sys.executable, "-m", "dagster_webserver", "--empty-workspace"),
        *("--host", HOST, "--port", str(place)),
    )
    given = {"DAGSTER_HOME": str(folder)}
    with _running(
        command, place, lambda: http_server_answers(f"http://{HOST}:{place}/server_info"), folder, given=given
    ) as listening:
        yield listening


@contextmanager
def _code_server(place: int | Path, folder: Path) -> Iterator[Callable[[], int]]:
    (folder / "nothing.py").write_text("import dagster\n\ndefs = dagster.Definitions()\n")
    command = (
        *(sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(place)),
        *("--python-file", str(folder / "nothing.py")),
    )
    with _running(
        command, place, lambda: code_server_serves(f"unix:{place}"), folder, given={"DAGSTER_HOME": str(folder)}
    ) as listening:
        yield listening


KINDS = {
    "kafka": _kafka,
    "postgres": _postgres,
    "mlflow": _mlflow,
    "webserver": _webserver,
    "code": _code_server,
}
