"""Processes of runs, as Dagster's code server follows them: those that have ended, and those that should have.

A thread of the code server looks for ended processes, and records runs that did not report their own end as failed. It
ends at the first error, such as a storage that is down for a moment. From then on the code server reports every ended
run as alive, so a run that died while it started would stall the stream for good.
"""

import logging
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dagster._grpc.server import DagsterApiServer

CODE_SERVER: Final = "dagster._grpc.server"
# A process that was asked to end may write its last events. After 60 s (cancel_timeout_seconds in dagster.yaml) Dagster
# records its run as canceled, whatever the process does.
KILL_SECONDS: Final = 90.0

_python_log = logging.getLogger(__name__)


def keep_noticing_ended_runs() -> None:
    """Let the code server of this process, if it is one, try again after an error."""
    if CODE_SERVER not in sys.modules:
        return
    from dagster._grpc.server import DagsterApiServer

    check_once = DagsterApiServer._check_for_orphaned_runs

    def check(server: "DagsterApiServer") -> None:
        try:
            check_once(server)
            kill_hanging(server, asked_before=time.time() - KILL_SECONDS)
        except Exception as error:  # of any kind: the storage decides which
            _python_log.warning("Ended runs could not be recorded; the code server tries again: %s", error)

    DagsterApiServer._check_for_orphaned_runs = check  # type: ignore[assignment, method-assign]  # there is no hook


def kill_hanging(server: "DagsterApiServer", *, asked_before: float) -> None:
    """Kill the processes of runs that were asked to end and have not.

    Args:
        server: the code server, which has started the processes.
        asked_before: only those that were asked before this time, in seconds since 1970.
    """
    with server._execution_lock:
        for run_id, asked in server._termination_times.items():
            process, _ = server._executions[run_id]
            if asked < asked_before and process.is_alive():
                _python_log.warning("The process %s of run %s was asked to end and hangs. Killed.", process.pid, run_id)
                process.kill()
