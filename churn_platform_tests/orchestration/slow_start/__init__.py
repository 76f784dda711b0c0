"""A code server whose runs start when a test allows it: real processes that wait before their first import."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from churn_platform.deployment.dagster_home import LOCATION
from churn_platform.deployment.health import code_server_serves
from churn_platform.local.dagster_servers import MODULE
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.waiting import wait_until

GRPC_SECONDS = 3  # timeout of calls to the code server, in processes that launch runs


class SlowCodeServer:
    """Dagster's code server on a socket, with an instance that launches runs on it as configured in dagster.yaml."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        """Create the server without starting it.

        Args:
            folder: folder for its socket.
            instance: an instance with its storage in DAGSTER_HOME.
        """
        self.instance = instance
        self._socket = folder / "code.sock"
        self._may_start = folder / "runs-may-start"
        self._log = folder / "code.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it serves."""
        path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(self._socket)),
                *("--module-name", MODULE, "--location-name", LOCATION, "--use-python-environment-entry-point"),
            ],
            cwd=PROJECT_ROOT,
            env={**os.environ, "PYTHONPATH": path, "TESTS_RUNS_MAY_START": str(self._may_start)},
            stdout=self._log.open("ab"),
            stderr=subprocess.STDOUT,
        )
        wait_until(lambda: code_server_serves(f"unix:{self._socket}"), 120, "the code server to serve")

    def kill(self) -> None:
        """Kill the server (kill -9). Its child processes exit by themselves."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._socket.unlink(missing_ok=True)

    def log(self) -> str:
        """Return what the server has logged so far."""
        return self._log.read_text()

    def let_runs_start(self) -> None:
        """Let the processes of runs continue."""
        self._may_start.touch()

    def run_processes(self) -> list[psutil.Process]:
        """Return the processes of runs."""
        assert self._process is not None
        return [
            child
            for child in psutil.Process(self._process.pid).children()
            if "--multiprocessing-fork" in child.cmdline()
        ]

    @contextmanager
    def workspace(self) -> Iterator[WorkspaceProcessContext]:
        """Return a workspace with the server."""
        target = GrpcServerTarget(host="localhost", port=None, socket=str(self._socket), location_name=LOCATION)
        with WorkspaceProcessContext(self.instance, target) as context:
            yield context

    def submitted(self, job: str, key: str, tags: dict[str, str]) -> dg.DagsterRun:
        """Create a run in the state in which the queue's daemon passes it to the launcher."""
        with self.workspace() as context:
            location = context.create_request_context().get_code_location(LOCATION)
            (repository,) = location.get_repositories().values()
            found = repository.get_full_job(job)
            plan = location.get_execution_plan(
                found, {}, step_keys_to_execute=None, known_state=None, instance=self.instance
            )
            run: dg.DagsterRun = create_run_for_test(
                self.instance,
                job_name=job,
                tags={**tags, "dagster/partition": key},
                job_snapshot=found.job_snapshot,
                execution_plan_snapshot=plan.execution_plan_snapshot,
                parent_job_snapshot=found.parent_job_snapshot,
                remote_job_origin=found.get_remote_origin(),
                job_code_origin=found.get_python_origin(),
                asset_graph=repository.asset_graph,
            )
        return run

    def launch(self, run: dg.DagsterRun) -> None:
        """Launch a run from a separate process with a gRPC timeout of GRPC_SECONDS. Return when the launcher does."""
        code = (
            "import sys, dagster as dg\n"
            "from dagster._core.workspace.context import WorkspaceProcessContext\n"
            "from dagster._core.workspace.load_target import GrpcServerTarget\n"
            "socket, location, run_id = sys.argv[1:]\n"
            "target = GrpcServerTarget(host='localhost', port=None, socket=socket, location_name=location)\n"
            "with dg.DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as context:\n"
            "    instance.launch_run(run_id, context.create_request_context())\n"
        )
        subprocess.run(
            [sys.executable, "-c", code, str(self._socket), LOCATION, run.run_id],
            env={**os.environ, "DAGSTER_GRPC_TIMEOUT_SECONDS": str(GRPC_SECONDS)},
            check=True,
            cwd=PROJECT_ROOT,
        )
