"""Runs whose process has ended, as Dagster's code server notices them.

A thread of the code server looks for ended processes, and records runs that did not report their own end as failed. It
ends at the first error, such as a storage that is down for a moment. From then on the code server reports every ended
run as alive, so a run that died while it started would stall the stream for good.
"""

import logging
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dagster._grpc.server import DagsterApiServer

CODE_SERVER: Final = "dagster._grpc.server"

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
        except Exception as error:  # of any kind: the storage decides which
            _python_log.warning("Ended runs could not be recorded; the code server tries again: %s", error)

    DagsterApiServer._check_for_orphaned_runs = check  # type: ignore[assignment, method-assign]  # there is no hook
