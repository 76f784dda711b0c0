"""Which runs are alive: finds the streaming runs, and marks runs whose process is gone as failed.

Dagster's record of a run stays STARTED if the code server dies together with the run. So the evidence is the session of
the run in PostgreSQL, and the run launcher. What to do about a dead run is decided by the sensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import dagster as dg

from churn_platform.lanes import WHOLE, Lane, lanes
from churn_platform.orchestration.run_launcher import SESSION_TAG, Worker, worker_of

if TYPE_CHECKING:  # the code server needs it when a tick runs, not when it starts
    import psycopg

    from churn_platform.database.stream_layouts import Layout

ACTIVE: Final = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
LAUNCHED: Final = tuple(status for status in ACTIVE if status != dg.DagsterRunStatus.QUEUED)
STARTING: Final = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)
# Marks runs that the sensor requested. A replay that was started in the UI does not stream, and does not count.
STREAM_TAG: Final = "churn/stream"
# Number of the lane that a run reads. The sensor sets it when it launches a run. Other runs set it after they have
# scored events. If a run has replayed batches of several lanes, commas separate the numbers.
LANE_TAG: Final = "churn/lane"
# A run is dead if it has had no session in PostgreSQL for this long, whatever its record says: a run that lost its
# connection reconnects within 3 s. A run whose launcher reports no process is dead, too.
DEAD_SECONDS: Final = 10.0
# A run that has not been submitted within this time never will be: its creator died in between.
UNSUBMITTED_SECONDS: Final = 120.0
# Number of latest runs of a lane whose failures decide how long to wait before the next run.
LATEST_RUNS: Final = 8


@dataclass(frozen=True)
class LaneRuns:
    """The streaming runs of one lane, as of a tick.

    Attributes:
        active: runs that stream or are about to.
        starting_seconds: how long the longest of the active runs without a session has been without one.
        failures: how many of the latest runs failed in a row.
        since_failure: seconds since the last of these failures.
    """

    active: list[dg.DagsterRun]
    starting_seconds: float | None
    failures: int
    since_failure: float | None

    @property
    def keys(self) -> list[str]:
        """Batch keys of the active runs."""
        return [run.tags["dagster/partition"] for run in self.active if "dagster/partition" in run.tags]


@dataclass(frozen=True)
class StreamingRuns:
    """The streaming runs, as of a tick.

    Attributes:
        lanes: those of each lane. Runs of another number of lanes are left out: they are about to end.
        missing: since when a run has been without a session, in seconds since 1970, by run id.
    """

    lanes: Mapping[Lane, LaneRuns]
    missing: dict[str, float]


def streaming_runs(
    instance: dg.DagsterInstance,
    connection: "psycopg.Connection",
    missing: Mapping[str, float],
    now: float,
    layout: "Layout",
    *,
    start_timeout_seconds: float,
) -> StreamingRuns:
    """Mark runs of every job whose process is gone as failed, and return the streaming runs that remain.

    If the code server dies together with its run, the record of the run stays STARTED forever. A dead streaming run
    would stall the stream. A dead run of another job would stall that job and occupy a place in the queue.

    Args:
        instance: Dagster's instance.
        connection: to the ledger, in autocommit mode.
        missing: since when active runs have been without a session in PostgreSQL, in seconds since 1970, by run id.
        now: seconds since 1970.
        layout: of the events topic.
        start_timeout_seconds: if the launcher has not known a run for this long, it never received the run or has lost
            its record. It is longer than a launcher repeats a request, and than one takes to answer after a restart.
    """
    from churn_platform.database import advisory_locks, stream_batches

    sessions = advisory_locks.streaming_sessions(connection)
    records = _latest_records(instance, layout)
    live = [record for record in records if record.dagster_run.status in ACTIVE]
    finished = [record for record in records if record.dagster_run.status not in ACTIVE]
    launched = {run.run_id: run for run in instance.get_runs(dg.RunsFilter(statuses=list(LAUNCHED)))}
    launched |= {record.dagster_run.run_id: record.dagster_run for record in live}
    absent = [
        run
        for run in launched.values()
        if run.run_id not in sessions and run.status != dg.DagsterRunStatus.QUEUED and _has_sessions(run)
    ]
    since = {run.run_id: missing.get(run.run_id, now) for run in absent}
    dead = {
        run.run_id
        for run in absent
        if _fail_if_dead(
            instance, connection, run, now - since[run.run_id], start_timeout_seconds=start_timeout_seconds
        )
    }
    closed = stream_batches.closed_batches(
        connection, [key for each in live if (key := _key(each.dagster_run)) is not None]
    )
    # A run whose batch is closed explains or replays it: it is alive, but does not stream.
    active = [each.dagster_run for each in live if each.dagster_run.run_id not in dead]
    active = [run for run in active if _key(run) not in closed]
    reads = stream_batches.lanes_of(
        connection, [key for each in records if (key := _key(each.dagster_run)) is not None]
    )

    def is_of(run: dg.DagsterRun, lane: Lane) -> bool:
        return reads.get(_key(run) or "", WHOLE) == lane

    return StreamingRuns(
        lanes={
            lane: _lane_runs(
                [run for run in active if is_of(run, lane)],
                [record for record in finished if is_of(record.dagster_run, lane)],
                since,
                now,
            )
            for lane in lanes(layout.wanted)
        },
        missing={run_id: moment for run_id, moment in since.items() if run_id not in dead},
    )


def _latest_records(instance: dg.DagsterInstance, layout: "Layout") -> list[dg.RunRecord]:
    """Return the latest streaming runs of all lanes, the newest first, and every active one."""
    tags = {STREAM_TAG: "live"}
    records = list(instance.get_run_records(dg.RunsFilter(tags=tags), limit=LATEST_RUNS * layout.most))
    if layout.most > 1:  # those of one lane that fails again and again are newer than an idle run of another
        known = {record.dagster_run.run_id for record in records}
        found = instance.get_run_records(dg.RunsFilter(tags=tags, statuses=list(ACTIVE)))
        records += [record for record in found if record.dagster_run.run_id not in known]
    return records


def _lane_runs(
    active: list[dg.DagsterRun], finished: Sequence[dg.RunRecord], since: Mapping[str, float], now: float
) -> LaneRuns:
    """Return the runs of a lane.

    Args:
        active: its runs that stream or are about to.
        finished: its latest runs that have ended, the newest first.
        since: since when a run has been without a session, by run id.
        now: seconds since 1970.
    """
    from churn_platform.stream.launch_decision import failures_in_a_row

    count = failures_in_a_row([record.dagster_run.status == dg.DagsterRunStatus.FAILURE for record in finished])
    ended = finished[0].end_time if count else None
    return LaneRuns(
        active=active,
        starting_seconds=max((now - since[run.run_id] for run in active if run.run_id in since), default=None),
        failures=count,
        since_failure=None if ended is None else now - ended,
    )


def _has_sessions(run: dg.DagsterRun) -> bool:
    """Return whether a live run has a session, or will have one. Runs that do not use PostgreSQL never have."""
    return run.status in STARTING or SESSION_TAG in run.tags or STREAM_TAG in run.tags


def _key(run: dg.DagsterRun) -> str | None:
    """Return the batch key of a streaming run."""
    return run.tags.get("dagster/partition")


def _fail_if_dead(
    instance: dg.DagsterInstance,
    connection: "psycopg.Connection",
    run: dg.DagsterRun,
    absent_seconds: float,
    *,
    start_timeout_seconds: float,
) -> bool:
    """Mark a run as failed if it is dead, and return whether it was.

    A streaming run that has lost its session is dead: it checks its session before it reports success. For any other
    run, and for one that has not started yet, the run launcher knows whether there is a process.
    """
    from churn_platform.database import advisory_locks

    if absent_seconds <= DEAD_SECONDS:
        return False
    reason = f"PostgreSQL has had no session of this run for {absent_seconds:.0f} s."
    if SESSION_TAG not in run.tags or STREAM_TAG not in run.tags:
        if run.status == dg.DagsterRunStatus.NOT_STARTED:
            worker, patience = None, UNSUBMITTED_SECONDS
            reason = f"It was not submitted within {absent_seconds:.0f} s."
        else:
            worker = worker_of(instance, run)
            only_the_launcher_knows = run.status in STARTING or STREAM_TAG not in run.tags
            lasts = worker is Worker.UNKNOWN and only_the_launcher_knows
            patience = start_timeout_seconds if lasts else DEAD_SECONDS
            reason += f" The run launcher reports its process as {worker.name.lower()}."
        if worker is Worker.ALIVE or absent_seconds <= patience:
            return False
    with advisory_locks.run_is_dead(connection, run.run_id) as is_dead:
        latest = instance.get_run_by_id(run.run_id)
        if not is_dead or latest is None or latest.status != run.status:
            return False
        instance.report_run_failed(run, f"Its process is gone. {reason}")
    return True
