"""A code server whose runs start when a test allows it: real processes that wait before their first import."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil

from churn_platform.deployment.dagster_home import LOCATION
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.orchestration.code_server import CodeServer

GRPC_SECONDS = 3  # timeout of calls to the code server, in processes that launch runs


class SlowCodeServer(CodeServer):
    """A code server whose runs wait. It cannot fork them, so each starts in a new interpreter."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        """Create the server without starting it.

        Args:
            folder: folder for its socket.
            instance: an instance with its storage in DAGSTER_HOME.
        """
        self._may_start = folder / "runs-may-start"
        super().__init__(
            folder,
            instance,
            site=Path(__file__).parent,
            environment={"TESTS_RUNS_MAY_START": str(self._may_start)},
        )

    def let_runs_start(self) -> None:
        """Let the processes of runs continue."""
        self._may_start.touch()

    def run_processes(self) -> list[psutil.Process]:
        """Return the processes of runs."""
        alive = [child for child in self.process.children() if child.status() != psutil.STATUS_ZOMBIE]
        return [child for child in alive if "--multiprocessing-fork" in child.cmdline()]

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
            [sys.executable, "-c", code, str(self.socket), LOCATION, run.run_id],
            env={**os.environ, "DAGSTER_GRPC_TIMEOUT_SECONDS": str(GRPC_SECONDS)},
            check=True,
            cwd=PROJECT_ROOT,
        )
