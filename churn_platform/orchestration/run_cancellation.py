"""Cancellation of a code server's runs before it is stopped, so that they end as CANCELED and not as FAILURE.

Dagster treats an interrupted run as failed unless its cancellation was requested first. This process requests it,
confirms with a line on stdout, and waits until its stdin is closed, which means that the code server has ended. Runs
that could not report their own end, because they were still starting, are then marked as canceled.

`python -m churn_platform.orchestration.run_cancellation SOCKET`, with Dagster's variables in the environment.
"""

import json
import sys
from typing import Final

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG

LIVE: Final = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
REASON: Final = "The stack was stopped while this run was in progress."
REQUESTED: Final = "requested"


def cancel(socket: str) -> None:
    """Request the cancellation of each live run of the code server. At the end of stdin, mark the unfinished ones.

    Args:
        socket: where the code server listens. Its runs are found by this address.
    """
    with dg.DagsterInstance.get() as instance:
        runs = [
            run
            for run in instance.get_runs(dg.RunsFilter(statuses=LIVE))
            if json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("socket") == socket
        ]
        for run in runs:
            instance.report_run_canceling(run, REASON)
        sys.stdout.write(f"{REQUESTED}\n")
        sys.stdout.flush()
        sys.stdin.read()
        for run in runs:
            now = instance.get_run_by_id(run.run_id)
            if now is not None and not now.is_finished:
                instance.report_run_canceled(now, REASON)


if __name__ == "__main__":
    cancel(sys.argv[1])
