"""Dagster's code server as a stack runs it, on a socket, and runs that a test launches on it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

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


class CodeServer:
    """Dagster's code server on a socket, with an instance that launches runs on it as configured in dagster.yaml."""

    def __init__(
        self, folder: Path, instance: dg.DagsterInstance, *, site: Path, environment: Mapping[str, str]
    ) -> None:
        """Create the server without starting it.

        Args:
            folder: folder for its socket.
            instance: an instance with its storage in DAGSTER_HOME.
            site: folder of a sitecustomize.py, which its processes import.
            environment: variables for its processes.
        """
        self.instance = instance
        self.socket = folder / "code.sock"
        self._log = folder / "code.log"
        self._environment = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, (str(site), _python_path())))}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the server. At the end of the block it is killed."""
        with ExitStack() as not_started:
            not_started.callback(self.kill)
            self.start()
            not_started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server in a process group of its own, as a stack does, and wait until it serves."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(self.socket)),
                *("--module-name", MODULE, "--location-name", LOCATION, "--use-python-environment-entry-point"),
            ],
            cwd=PROJECT_ROOT,
            env={**os.environ, **self._environment},
            stdout=self._log.open("ab"),
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        wait_until(lambda: code_server_serves(f"unix:{self.socket}"), 120, "the code server to serve")

    @property
    def process(self) -> psutil.Process:
        """The process of the server."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def kill(self) -> None:
        """Kill the server (kill -9), but none of its child processes."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self.socket.unlink(missing_ok=True)

    def stop_group(self) -> None:
        """Send SIGTERM to the server and its child processes, as a stack does, and wait for the server's end."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(60)

    def log(self) -> str:
        """Return what the server has logged so far."""
        return self._log.read_text()

    @contextmanager
    def workspace(self) -> Iterator[WorkspaceProcessContext]:
        """Return a workspace with the server."""
        target = GrpcServerTarget(host="localhost", port=None, socket=str(self.socket), location_name=LOCATION)
        with WorkspaceProcessContext(self.instance, target) as context:
            yield context

    def submitted(self, job: str, key: str, tags: Mapping[str, str] | None = None) -> dg.DagsterRun:
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
                tags={**(tags or {}), "dagster/partition": key},
                job_snapshot=found.job_snapshot,
                execution_plan_snapshot=plan.execution_plan_snapshot,
                parent_job_snapshot=found.parent_job_snapshot,
                remote_job_origin=found.get_remote_origin(),
                job_code_origin=found.get_python_origin(),
                asset_graph=repository.asset_graph,
            )
        return run

    def launch(self, run: dg.DagsterRun) -> None:
        """Launch a run. Return when the launcher does."""
        with self.workspace() as context:
            self.instance.launch_run(run.run_id, context.create_request_context())

    def record(self, run: dg.DagsterRun) -> dg.DagsterRun:
        """Return what is recorded about a run now."""
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found

    def end_of(self, run: dg.DagsterRun) -> dg.DagsterRunStatus:
        """Wait for the end of a run, and return its status."""
        wait_until(lambda: self.record(run).is_finished, 120, f"run {run.run_id} to end")
        return self.record(run).status


def _python_path() -> str | None:
    return os.environ.get("PYTHONPATH")
