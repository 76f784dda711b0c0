"""Dagster's own servers: the code server, the web server and the daemon.

One code server is shared by the other two, which would each start one of their own.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from select import select

import httpx
import psutil

from churn_platform.deployment.web import answers
from churn_platform.local.part import Part
from churn_platform.local.ports import HOST
from churn_platform.settings import PROJECT_ROOT

WORKSPACE = "workspace.yaml"
LOCATION = "churn_platform"
MODULE = "churn_platform.definitions"

STORAGE = """
storage:
  custom:
    module: churn_platform.orchestration.instance_storage
    class: PooledPostgresStorage
    config:
      postgres_url:
        env: DAGSTER_POSTGRES_URL
"""

CANCELLATION = "churn_platform.orchestration.run_cancellation"
CANCELLATION_SECONDS = 30  # to import Dagster on a busy machine, and for a request that PostgreSQL has to answer

SILENCE = 90  # seconds without a sign of life: three of the daemon's own intervals
HEARTBEATS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required lastHeartbeatTime } } } }"


def parts(*, folder: Path, socket: Path, port: int) -> list[Part]:
    """The three servers.

    Args:
        folder: DAGSTER_HOME.
        socket: where the code server listens: a file that only its owner reaches, since it runs code for whoever asks.
        port: where the web server listens.
    """
    workspace = folder / WORKSPACE
    url = f"http://{HOST}:{port}"

    code = Part(
        name="code",
        title="Dagster code server",
        command=(
            *(sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(socket), "--module-name", MODULE),
            *("--location-name", LOCATION, "--working-directory", str(PROJECT_ROOT)),
            "--use-python-environment-entry-point",
        ),
        address="",
        folder=PROJECT_ROOT,
        ready=lambda _: serves(f"unix:{socket}"),
        listens_at=(socket,),
        needs=("postgres",),  # it opens the instance, and makes its tables the first time
        stop_with_children=True,  # runs are its children: they close what they hold
        stop_seconds=30,
        stop_stage=1,  # after the daemon, which would start new runs
        while_stopping=lambda pid: runs_canceled(pid, socket),
    )
    web = Part(
        name="webserver",
        title="Dagster UI",
        command=(
            *(sys.executable, "-m", "dagster_webserver", "--workspace", str(workspace)),
            *("--host", HOST, "--port", str(port)),
        ),
        address=url,
        folder=PROJECT_ROOT,
        ready=lambda _: answers(f"{url}/server_info"),
        listens_at=(port,),
        needs=(code.name,),
    )
    daemon = Part(
        name="daemon",
        title="Dagster daemon",
        command=(sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace)),
        address="",
        folder=PROJECT_ROOT,
        ready=lambda since: beats(url, since),
        answers_through=web,
        needs=(code.name, "kafka"),  # its first tick would fail without Kafka
        stop_seconds=20,
    )
    return [code, web, daemon]


@contextmanager
def runs_canceled(pid: int, socket: Path) -> Iterator[None]:
    """Let the runs of a code server end as CANCELED when it is stopped inside.

    Where that cannot be requested, because PostgreSQL is away, they end as FAILURE: a stop goes on all the same.

    Args:
        pid: of the code server.
        socket: where it listens.
    """
    try:
        code_server = psutil.Process(pid)
        environment, idle = code_server.environ(), not code_server.children()
    except psutil.NoSuchProcess:
        idle = True
    if idle:
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-m", CANCELLATION, str(socket)],
        env=environment,
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as cancellation:
        reports = [cancellation.stdout] if cancellation.stdout is not None else []
        try:
            select(reports, [], [], CANCELLATION_SECONDS)
            yield
            cancellation.communicate(timeout=CANCELLATION_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            cancellation.kill()


def write_home(folder: Path, code_server: Mapping[str, str | int], compute_logs: str) -> None:
    """Make DAGSTER_HOME: the repository's `dagster.yaml` with storage in PostgreSQL, and the code server's workspace.

    Args:
        folder: DAGSTER_HOME.
        code_server: where it listens, as a workspace says it: `socket`, or `host` and `port`.
        compute_logs: section of `dagster.yaml`; empty, they are kept in DAGSTER_HOME.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    configuration = (PROJECT_ROOT / "dagster.yaml").read_text(encoding="utf-8")
    (folder / "dagster.yaml").write_text(configuration + STORAGE + compute_logs, encoding="utf-8")
    server = {"grpc_server": {**code_server, "location_name": LOCATION}}
    (folder / WORKSPACE).write_text(json.dumps({"load_from": [server]}, indent=2))  # JSON is YAML, whatever the path


def serves(target: str) -> bool:
    """Whether the code server says that it is well.

    Args:
        target: where it listens, as gRPC says it: host:port or unix:path.
    """
    import grpc  # type: ignore[import-untyped]
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

    with grpc.insecure_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="DagsterApi"), timeout=2
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def beats(url: str, since: float) -> bool:
    """Whether every daemon that the instance needs has reported, since then and lately.

    Args:
        url: of the web server, which is asked.
        since: in seconds since the epoch.
    """
    try:
        answer = httpx.post(f"{url}/graphql", json={"query": HEARTBEATS}, timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    if not answer.is_success:
        return False
    daemons = answer.json()["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    beats = [daemon["lastHeartbeatTime"] or 0 for daemon in daemons if daemon["required"]]
    return bool(beats) and min(beats) >= max(since, time.time() - SILENCE)
