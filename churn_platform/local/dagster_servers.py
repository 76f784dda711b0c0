"""Dagster's three servers: the code server, the web server and the daemon.

The web server and the daemon share one code server. Without it, each would start a separate one.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select

import psutil

from churn_platform.deployment.dagster_home import LOCATION, RUN_PROCESS, WORKSPACE
from churn_platform.deployment.health import code_server_serves, daemons_have_heartbeats, http_server_answers
from churn_platform.local.part import Part
from churn_platform.local.ports import HOST
from churn_platform.settings import PROJECT_ROOT

MODULE = "churn_platform.definitions"
CANCELLATION = "churn_platform.orchestration.run_cancellation"
SPAWNED_RUN = "--multiprocessing-fork"  # in the command line of a run that was not forked
CANCELLATION_SECONDS = 30  # to import Dagster on a busy machine, and for a request that PostgreSQL has to answer


def parts(*, folder: Path, socket: Path, port: int) -> list[Part]:
    """Return the three servers.

    Args:
        folder: DAGSTER_HOME.
        socket: where the code server listens. Only the owner can open this file, because the code server runs any code
            that a client requests.
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
        ready=lambda _: code_server_serves(f"unix:{socket}"),
        listens_at=(socket,),
        needs=("postgres",),  # it opens the instance, which creates its tables the first time
        stop_with_children=True,  # its runs are in its process group: the signal lets them close their connections
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
        ready=lambda _: http_server_answers(f"{url}/server_info"),
        listens_at=(port,),
        needs=(code.name,),
    )
    daemon = Part(
        name="daemon",
        title="Dagster daemon",
        command=(sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace)),
        address="",
        folder=PROJECT_ROOT,
        ready=lambda since: daemons_have_heartbeats(url, since=since),
        answers_through=web,
        needs=(code.name, "kafka"),  # its first tick would fail without Kafka
        stop_seconds=20,
    )
    return [code, web, daemon]


@contextmanager
def runs_canceled(pid: int, socket: Path) -> Iterator[None]:
    """Request cancellation of a code server's runs, so that a stop within the block ends them as CANCELED.

    If that is not possible, because PostgreSQL does not answer, they end as FAILURE and the stop continues.

    Args:
        pid: of the code server.
        socket: where it listens.
    """
    try:
        code_server = psutil.Process(pid)
        environment, idle = code_server.environ(), not _has_runs(code_server)
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


def _has_runs(code_server: psutil.Process) -> bool:
    """Return whether a code server has runs. It keeps other child processes, such as the one that runs are forked from.

    Raises:
        psutil.NoSuchProcess: the code server has ended.
    """
    for process in code_server.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() == RUN_PROCESS or SPAWNED_RUN in process.cmdline():
                return True
    return False
