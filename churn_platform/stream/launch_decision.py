"""The decision whether the sensor launches a streaming run. Pure: the sensor passes in what it observed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

# A live run gets a standby when its last event is at most this old.
FLOWING_SECONDS: Final = 5.0
# A run that takes longer than this to start is reported.
SLOW_SECONDS: Final = 30.0
FIRST_WAIT_SECONDS: Final = 10.0
LONGEST_WAIT_SECONDS: Final = 60.0
# A run that is to get ready, while nothing waits, is launched again this long after one has failed.
READY_WAIT_SECONDS: Final = 600.0


@dataclass(frozen=True)
class Observed:
    """What the sensor observed. Seconds are ages; None if there is nothing to measure.

    Attributes:
        waiting: offsets that wait to be read.
        held: further offsets that an open transaction of another producer holds back.
        held_seconds: how long it has held them back.
        unpublished: whether something that was read is not known to be published.
        active_runs: streaming runs that are queued, starting or running.
        starting_seconds: how long one of them has been without a session.
        has_champion: whether there is a model to score with.
        paused_since: when the stream was paused.
        batch_open_seconds: age of the open batch.
        last_commit_seconds: age of the last commit.
        failures: how many of the latest runs failed in a row.
        since_failure: how long ago the last of them failed.
    """

    waiting: int
    held: int
    held_seconds: float
    unpublished: bool
    active_runs: int
    starting_seconds: float | None
    has_champion: bool
    paused_since: datetime | None
    batch_open_seconds: float | None
    last_commit_seconds: float | None
    failures: int
    since_failure: float | None


@dataclass(frozen=True)
class Decision:
    """Whether to launch a run, and the reason as text for the tick's page."""

    launch: bool
    reason: str


def decide(seen: Observed, *, ready: bool, standby: bool, batch_seconds: float, lead_seconds: float) -> Decision:
    """Launch a run if none is active, and a second one, its successor, while a batch is open.

    Args:
        seen: what the sensor observed.
        ready: whether a run is to be live even while there is nothing to read, so that no event waits for its start.
        standby: whether the successor is launched early, so that it is warm if the live run dies.
        batch_seconds: age at which a batch closes.
        lead_seconds: without a standby, how long before that the successor is launched, so that it has started by then.
    """
    waiting = f"{seen.waiting} offsets waiting"
    if seen.last_commit_seconds is not None:
        waiting += f", last commit {seen.last_commit_seconds:.0f} s ago"
    if seen.held:
        waiting += f", {seen.held} more behind a transaction that is open for {seen.held_seconds:.0f} s"
    if seen.paused_since is not None:
        return Decision(
            False,
            f"Paused since {seen.paused_since:%Y-%m-%d %H:%M:%S %Z}: 'churn stream resume' resumes it. {waiting}.",
        )
    if not seen.has_champion:
        return Decision(False, f"No champion model yet: materialize champion_model. {waiting}.")
    if seen.active_runs == 0:
        is_needed = seen.waiting > 0 or seen.unpublished or seen.batch_open_seconds is not None
        if not is_needed and not ready:
            return Decision(False, f"{waiting}.")
        wait = _backoff(seen.failures) if is_needed or not seen.failures else READY_WAIT_SECONDS
        if seen.since_failure is not None and seen.since_failure < wait:
            return Decision(
                False,
                f"The last {seen.failures} streaming runs failed; the next attempt follows in "
                f"{wait - seen.since_failure:.0f} s. The latest run's page shows why. {waiting}.",
            )
        if seen.batch_open_seconds is not None:
            return Decision(True, f"{waiting}; a batch was left open and is resumed.")
        if not is_needed:
            return Decision(True, f"{waiting}; a run gets ready for the next event.")
        if seen.waiting == 0:
            return Decision(True, "A run died before everything was known to be published; a new one checks.")
        return Decision(True, f"{waiting}, no run is live.")
    if seen.active_runs > 1:
        return Decision(False, f"Streaming, with a standby. {waiting}.")
    if seen.batch_open_seconds is None and seen.starting_seconds is not None and seen.starting_seconds >= SLOW_SECONDS:
        return Decision(False, f"A run has been starting for {seen.starting_seconds:.0f} s. {waiting}.")
    if seen.batch_open_seconds is None:
        return Decision(False, f"A run is starting, or ready for its first event. {waiting}.")
    flowing = seen.last_commit_seconds is not None and seen.last_commit_seconds <= FLOWING_SECONDS
    if standby and (flowing or ready):
        return Decision(True, f"Streaming; a standby warms up. {waiting}.")
    if not standby and (seen.waiting > 0 or ready) and seen.batch_open_seconds >= batch_seconds - lead_seconds:
        return Decision(True, f"Streaming; the batch closes soon. {waiting}.")
    return Decision(False, f"Streaming. {waiting}.")


def _backoff(failures: int) -> float:
    """Return the seconds to wait after this many failures in a row: 0 after the first, then 10, 20, 40, at most 60."""
    if failures < 2:
        return 0.0
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (failures - 2))


def failures_in_a_row(newest_first: Sequence[bool]) -> int:
    """Return how many of the latest runs failed since the last one that did not. True is a failure."""
    for count, failed in enumerate(newest_first):
        if not failed:
            return count
    return len(newest_first)
