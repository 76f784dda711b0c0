"""Whether a run has a process, according to its run launcher, and the launcher that the platform uses."""

import json
import logging
from enum import Enum, auto
from typing import Final

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import DefaultRunLauncher, WorkerStatus
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import GetCurrentRunsResult
from dagster._serdes import deserialize_value

# Tag of a run that has had a session in PostgreSQL: it has started, and is dead without one. The UI hides the prefix.
SESSION_TAG: Final = ".dagster/churn_session"

_python_log = logging.getLogger(__name__)


class Worker(Enum):
    """The state of a run's process (container, task, pod), as its launcher reports it."""

    ALIVE = auto()
    GONE = auto()
    """It has ended or never existed."""
    UNKNOWN = auto()
    """The launcher does not know, or does not answer."""


_WORKERS: Final = {WorkerStatus.RUNNING: Worker.ALIVE, WorkerStatus.UNKNOWN: Worker.UNKNOWN}


def worker_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Worker:
    """Ask the instance's run launcher about a run that has been submitted to it."""
    launcher = instance.run_launcher
    try:
        if launcher.supports_check_run_worker_health:  # the launchers of ECS, Kubernetes and Docker do
            return _WORKERS.get(launcher.check_run_worker_health(run).status, Worker.GONE)
        if isinstance(launcher, DefaultRunLauncher):
            return _child_of_code_server(run)
    except Exception as error:  # of any kind: whatever fails between here and the launcher, there is no answer
        _python_log.warning("The launcher of run %s does not answer: %s", run.run_id, error)
    return Worker.UNKNOWN


def _child_of_code_server(run: dg.DagsterRun) -> Worker:
    """Ask the code server that a run was sent to. With the default launcher, the run is its child process.

    A restarted code server does not know the children of its predecessor. If such a child is still alive, it does no
    harm: Dagster does not let a run start that is recorded as failed.
    """
    if GRPC_INFO_TAG not in run.tags:
        return Worker.GONE  # Dagster writes the tag right before it sends the run to the code server
    where = json.loads(run.tags[GRPC_INFO_TAG])
    client = DagsterGrpcClient(
        host=where.get("host"),
        port=where.get("port"),
        socket=where.get("socket"),
        use_ssl=bool(where.get("use_ssl", False)),
    )
    current = deserialize_value(client.get_current_runs(), GetCurrentRunsResult).current_runs
    return Worker.ALIVE if run.run_id in current else Worker.GONE


class PatientRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, for machines where a process may take longer to start than a gRPC call may last.

    The default launcher marks a run as failed if its process has not started after DAGSTER_GRPC_TIMEOUT_SECONDS (60),
    although the process continues to start.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run. If the call times out, the run counts as launched if the code server has its process."""
        try:
            super().launch_run(context)
        except DagsterUserCodeUnreachableError:
            run = self._instance.get_run_by_id(context.dagster_run.run_id)
            if run is None or worker_of(self._instance, run) is not Worker.ALIVE:
                raise
            self._instance.report_engine_event("The run's process is slow to start. Waiting for it.", run)
            self._run_ids.add(run.run_id)
