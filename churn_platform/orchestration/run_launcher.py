"""Whether a run that has not said anything itself has a process: what its run launcher knows of it."""

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

# Of a run that has had its session in PostgreSQL: it has started, and without one it is dead. The UI hides this prefix.
SESSION_TAG: Final = ".dagster/churn_session"

_python_log = logging.getLogger(__name__)


class Worker(Enum):
    """What a launcher says of a run's process (container, task, pod)."""

    ALIVE = auto()
    GONE = auto()
    """It ended, or was never made."""
    UNKNOWN = auto()
    """The launcher cannot say, or does not answer now."""


_MEANING: Final = {WorkerStatus.RUNNING: Worker.ALIVE, WorkerStatus.UNKNOWN: Worker.UNKNOWN}


def worker_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Worker:
    """Ask the instance's run launcher for a run that has been submitted to it."""
    launcher = instance.run_launcher
    try:
        if launcher.supports_check_run_worker_health:  # those of ECS, Kubernetes and Docker do
            return _MEANING.get(launcher.check_run_worker_health(run).status, Worker.GONE)
        if isinstance(launcher, DefaultRunLauncher):
            return _under_its_code_server(run)
    except Exception as error:  # whatever stands between it and its launcher: that is no answer
        _python_log.warning("The launcher of run %s does not answer: %s", run.run_id, error)
    return Worker.UNKNOWN


def _under_its_code_server(run: dg.DagsterRun) -> Worker:
    """A run of the default launcher is a child of the code server that it was sent to, which keeps a list of them.

    A code server that was started again knows nothing of the children of the one before it. If such a child still
    lives, it has not begun to execute: Dagster lets no run begin whose record says that it has failed.
    """
    if GRPC_INFO_TAG not in run.tags:
        return Worker.GONE  # the tag is written right before the code server is asked
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
    """Dagster's default launcher, for machines where a process takes longer to start than a gRPC call may.

    The default one gives a run up when its process has not come up after DAGSTER_GRPC_TIMEOUT_SECONDS (60), although
    that process goes on starting.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run; it is launched, too, when the code server has its process and does not say yet how it does."""
        try:
            super().launch_run(context)
        except DagsterUserCodeUnreachableError:
            run = self._instance.get_run_by_id(context.dagster_run.run_id)
            if run is None or worker_of(self._instance, run) is not Worker.ALIVE:
                raise
            self._instance.report_engine_event("The run's process is slow to start; it is being waited for.", run)
            self._run_ids.add(run.run_id)
