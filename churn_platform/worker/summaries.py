"""The duty that keeps the summary tables, which views and pages read instead of predictions.

PostgreSQL does the work: the rows of new commits never leave it. Each run is one transaction with one snapshot, in
which the positions move, so each row counts once. A replay leaves the rows that it replaces in replaced_predictions:
the duty subtracts those that it had counted, and adds those that are there now. Outcomes leave their customers in
changed_outcomes: the duty finds out again which of these left.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from churn_platform.database import (
    changed_outcomes,
    customer_summary,
    erased_customers,
    prediction_summary,
    replaced_predictions,
    retention_keys,
    stream_minutes,
    summary_changes,
    summary_state,
    worker_positions,
)
from churn_platform.database.arms import ArmKey
from churn_platform.database.new_rows import NewRows
from churn_platform.keyed_shares import padded_keys, share_bound
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.worker.pace import Pace
from churn_platform.worker.stream_backlog import StreamBacklog, unknown

_log = logging.getLogger("churn.worker")

NAME: Final = summary_state.FOLLOWER

# Seconds between two looks at the stream's positions. The summaries are at most 5 s behind, unless the stream works off
# a backlog (see pace.py).
PAUSE: Final = 4.0
# Offsets that one run follows at most. They take several seconds, while others see the summaries of before.
MOST_OFFSETS: Final = 200_000
# Seconds that a run may take: a replay may have replaced a million rows, and another share gives every customer an arm.
LONGEST_RUN: Final = 3_600
# Memory of PostgreSQL for a sort. The rows of a run at 5,000 events per second take 10 MB, of the first start 100 MB.
SORT_MEMORY: Final = "64MB"
# Seconds between two deletions of minutes that are too old.
DELETE_SECONDS: Final = 600.0


@dataclass(frozen=True)
class SummariesConfig:
    """What the duty needs to know.

    Attributes:
        schema: of the customers.
        control_share: share of the customers in the control arm, 0..1.
        most_offsets: offsets that one run follows at most.
    """

    schema: CustomerSchema
    control_share: float
    most_offsets: int = MOST_OFFSETS


class SummariesDuty:
    """Keeps the summary tables. One worker at a time runs it."""

    name = NAME
    exclusive = True
    interval = PAUSE

    def __init__(
        self,
        config: SummariesConfig,
        *,
        stream_backlog: StreamBacklog = unknown,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the duty.

        Args:
            config: what it needs to know.
            stream_backlog: asked whether the stream works off a backlog.
            monotonic: seconds, for pauses.
        """
        self._config = config
        self._monotonic = monotonic
        self._new_rows = NewRows()
        self._stream_backlog = stream_backlog
        self._pace = Pace(monotonic=monotonic)
        self._key: ArmKey | None = None
        self._deleted_at = float("-inf")

    def run(self, connection: psycopg.Connection) -> bool:
        """Bring the summaries up to date with the stream; return whether it is further ahead than one run follows."""
        began = self._monotonic()
        if self._key is None:
            self._key = self._prepare(connection)
        more = False
        waiting = sum(each.offsets for each in worker_positions.behind(connection, NAME))
        may_follow = not self._pace.waits(waiting, lambda: self._stream_backlog(connection)) and waiting > 0
        if may_follow or replaced_predictions.batches(connection) or changed_outcomes.exist(connection):
            left = self._follow(connection, self._key)
            self._pace.followed(left)
            more = left > 0
        if began - self._deleted_at >= DELETE_SECONDS:
            stream_minutes.delete_old(connection)
            self._deleted_at = began
        return more

    def _prepare(self, connection: psycopg.Connection) -> ArmKey:
        """Begin the summaries again if they were computed with other segments, and the arms if with another share."""
        share = self._config.control_share
        inner, outer = padded_keys(retention_keys.ensure_key(connection))
        key = ArmKey(inner, outer, share_bound(share))
        definition = summary_changes.definition(self._config.schema)
        summary_changes.create(connection, self._config.schema)
        with connection.transaction():
            _begin_long_run(connection)
            state = summary_state.get(connection)
            if state is None or state.definition != definition:
                self._clear(connection)
                summary_state.begin(connection, definition=definition, control_share=share)
                _log.info("The summaries are computed from the first event on.")
            elif state.control_share != share:
                self._apply_replays(connection, replace(key, controls_below=share_bound(state.control_share)))
                prediction_summary.assign_arms(connection, self._config.schema, key, follower=NAME)
                changed = customer_summary.assign_arms(connection, key)
                summary_state.set_control_share(connection, share)
                _log.info(
                    "CONTROL_SHARE is %s, and was %s: %s customers change arms.", share, state.control_share, changed
                )
        return key

    def _clear(self, connection: psycopg.Connection) -> None:
        customer_summary.clear(connection)
        prediction_summary.clear(connection)
        stream_minutes.clear(connection)
        replaced_predictions.delete(connection, replaced_predictions.batches(connection))
        worker_positions.forget(connection, NAME)

    def _follow(self, connection: psycopg.Connection, key: ArmKey) -> int:
        """Apply replays and the commits since the last run, in one transaction; return the offsets that are left."""
        summary_changes.create(connection, self._config.schema)
        with connection.transaction():
            _begin_long_run(connection)
            self._apply_replays(connection, key)
            left, new_rows = self._apply_commits(connection, key)
            if changed_outcomes.exist(connection):
                customer_summary.apply_outcomes(connection)
                changed_outcomes.delete(connection)
            summary_state.record_followed(connection, is_built=not left)
        self._new_rows = new_rows  # only now: after an error, the same rows are read again
        return left

    def _apply_replays(self, connection: psycopg.Connection, key: ArmKey) -> None:
        """Replace the rows of replayed batches in the summaries, as far as these were followed before the replay."""
        replayed = replaced_predictions.batches(connection)
        if not replayed:
            return
        schema = self._config.schema
        summary_changes.add_replaced(
            connection, schema, key, worker_positions.followed_ranges(connection, NAME, replayed)
        )
        prediction_summary.apply_changes(connection, schema, replaced=True)
        customer_summary.apply_replaced(connection, schema, follower=NAME)
        replaced_predictions.delete(connection, replayed)
        summary_changes.clear(connection)

    def _apply_commits(self, connection: psycopg.Connection, key: ArmKey) -> tuple[int, NewRows]:
        """Add the rows of commits since the last run.

        Returns:
            The number of offsets that are left, and what is known of the table once this is committed.
        """
        behind = worker_positions.behind(connection, NAME)
        following = worker_positions.first_offsets(behind, self._config.most_offsets)
        left = sum(each.offsets for each in behind) - sum(each.offsets for each in following)
        ranges = worker_positions.row_ranges(connection, following)
        first_block, new_rows = (None, NewRows()) if left else self._new_rows.read(connection, ranges)
        if summary_changes.add_new(connection, self._config.schema, key, ranges, first_block=first_block):
            prediction_summary.apply_changes(connection, self._config.schema, replaced=False)
            customer_summary.apply_new(connection)
        stream_minutes.add_followed(connection, following)
        worker_positions.advance(connection, NAME, following)
        return left, new_rows


def _begin_long_run(connection: psycopg.Connection) -> None:
    """Give the transaction one snapshot, and its limits: its time, and its memory, in which rows are sorted."""
    connection.execute("set transaction isolation level repeatable read")
    erased_customers.hold_off(connection)  # before the statement that takes the snapshot
    connection.execute(
        "select set_config('statement_timeout', %s, true), set_config('work_mem', %s, true)",
        (f"{LONGEST_RUN}s", SORT_MEMORY),
    )
