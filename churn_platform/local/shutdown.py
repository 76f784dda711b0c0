"""Stopping parts in order, and ending processes that an earlier stack left behind."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path

from churn_platform.local import postgres
from churn_platform.local.part import Part
from churn_platform.local.progress import Phase, Progress, Step
from churn_platform.local.supervision import Supervisor, end, is_supervisor, left_over


def stop_in_order(supervisor: Supervisor, parts: list[Part], progress: Progress) -> None:
    """Stop the parts stage by stage: Dagster first, PostgreSQL last."""
    states = supervisor.states()
    known = [part for part in parts if part.name in states]
    for stage in sorted({part.stop_stage for part in known}):
        stopping = [part for part in known if part.stop_stage == stage and states[part.name].pid is not None]
        begun = time.monotonic()
        for part in stopping:
            progress(Step(part.name, part.title, Phase.STOPPING, "", 0))
        with ExitStack() as stopped:
            for part in stopping:
                pid = states[part.name].pid
                if pid is not None:
                    stopped.enter_context(part.while_stopping(pid))
            supervisor.stop(
                [part.name for part in known if part.stop_stage == stage],
                seconds=max(part.stop_seconds for part in known) + 10,
            )
        for part in stopping:
            progress(Step(part.name, part.title, Phase.STOPPED, "", time.monotonic() - begun))


def left_over_pids(folder: Path) -> set[int]:
    """Return the processes that an earlier stack in this folder left behind."""
    database = postgres.left_over(folder / "postgres")
    return {process.pid for process in (*left_over(folder), *([database] if database else []))}


def end_left_over(folder: Path) -> bool:
    """End processes of an earlier stack whose supervisor was killed, and runs that outlived their server.

    Returns:
        Whether there were any.
    """
    processes = left_over(folder)
    supervisors = [process for process in processes if is_supervisor(process)]
    end(supervisors, [(signal.SIGTERM, 45), (signal.SIGKILL, 5)])  # on SIGTERM it stops its children in order
    end(processes, [(signal.SIGTERM, 20), (signal.SIGKILL, 5)])
    database = postgres.left_over(folder / "postgres")
    if database is not None:
        end([database], [(signal.SIGINT, 20), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)])
    return bool(processes or database)
