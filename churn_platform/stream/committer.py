"""A commit in PostgreSQL: rows and ledger in one transaction, or nothing."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import psycopg
from confluent_kafka import Message

from churn_platform.database import erased_customers, ledger
from churn_platform.database.bulk import BinaryArray
from churn_platform.database.churn_predictions import KnownEventError
from churn_platform.database.erased_customers import ErasuresChangedError
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.stream import faults
from churn_platform.stream.batch_progress import Opening
from churn_platform.stream.commit_rows import NO_IDS, Source, Written, high_risk_ids, write_rows
from churn_platform.stream.erasure import other_dead_letters
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.gatherer import Step
from churn_platform.stream.lease import Lease
from churn_platform.stream.prediction_values import prediction_rows
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.scoring_thread import ScoredMessages
from churn_platform.stream.takeover import Takeover

_python_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Moved:
    """How a commit changed the ledger, and the state of the stream at that time.

    Attributes:
        ends: the positions that moved, by Kafka partition.
        state: what a heartbeat returns.
    """

    ends: dict[int, int]
    state: ledger.Heartbeat


class Committer:
    """Writes commits over the connection that holds the lock, and tracks the positions that they have reached.

    Only one thread calls it. `erased` is the list of erased customers that its latest commit was made with.
    """

    def __init__(self, run: RunContext, lease: Lease, source: Source, takeover: Takeover) -> None:
        self._connection = lease.connection
        self._source = source
        self._lanes = run.lane.of
        self._schema = run.config.schema
        self._high_risk_threshold = run.config.high_risk_threshold
        self._positions = dict(takeover.positions)
        self.erased = takeover.erased

    def commit(
        self, step: Step, opening: Opening, messages: Sequence[Message], scored: ScoredMessages
    ) -> tuple[Written, Moved]:
        """Write the rows of scored messages and move the positions.

        Args:
            step: how far the positions move.
            opening: of the batch.
            messages: what was scored.
            scored: the result.

        Raises:
            LedgerConflictError: another run has taken over; nothing was written.
            InvariantViolation: events = predictions + dead letters + duplicates does not hold; nothing was written.
        """

        def commit() -> tuple[Written, Moved]:
            return self._commit(step, opening, messages, self._without_erased(scored))

        written, moved = self._until_committed(commit)
        self._complete(moved)
        return written, moved

    def _commit(
        self, step: Step, opening: Opening, messages: Sequence[Message], scored: ScoredMessages
    ) -> tuple[Written, Moved]:
        try:
            if scored.given is not None:
                written = Written.of(self._schema, scored.scored, self._high_risk_threshold, erased=scored.erased)
                faults.reach(FaultPoint.BEFORE_DATABASE_COMMIT)
                return written, self._advance(step, opening, written, scored, rows=scored.given)
            return self._write(step, opening, messages, scored, compare=False)
        except KnownEventError:
            return self._write(step, opening, messages, scored, compare=True)

    def _until_committed(self, commit: Callable[[], _Result]) -> _Result:
        """Commit, and again with the present list as long as customers are erased meanwhile.

        Commits of two lanes deadlock if both contain the same event ids in another order. PostgreSQL rolls one of them
        back. It finds the events of the other stored when it is repeated, and counts them as duplicates.
        """
        while True:
            try:
                return commit()
            except ErasuresChangedError:
                self.erased = erased_customers.load(self._connection)
            except psycopg.errors.DeadlockDetected as error:
                _python_log.warning("Batch %s: commits again after a deadlock: %s", self._source.batch, error)

    def _without_erased(self, scored: ScoredMessages) -> ScoredMessages:
        """Return scored messages without those about customers who were erased after they were decoded."""
        if scored.erasures == self.erased.version:
            return scored
        kept = ~np.array(self.erased.among(scored.scored.events.customer_id.tolist()), np.bool_)
        events = scored.scored.select(kept)
        dead_letters = other_dead_letters(self._schema, scored.dead_letters, self.erased)
        return ScoredMessages(
            scored=events,
            rows=prediction_rows(prediction_table(self._schema), self._source.batch, events),
            dead_letters=dead_letters,
            given=None,
            erased=scored.erased + len(kept) - len(events) + len(scored.dead_letters) - len(dead_letters),
            erasures=self.erased.version,
        )

    def _write(
        self, step: Step, opening: Opening, messages: Sequence[Message], scored: ScoredMessages, *, compare: bool
    ) -> tuple[Written, Moved]:
        with self._connection.transaction():
            written = write_rows(
                self._connection,
                self._source,
                self._schema,
                scored.scored,
                scored.rows,
                scored.dead_letters,
                messages,
                compare=compare,
                high_risk_threshold=self._high_risk_threshold,
                erased=scored.erased,
            )
            moved = self._advance(step, opening, written, scored, rows=None)
            faults.reach(FaultPoint.BEFORE_DATABASE_COMMIT)
            return written, moved

    def move_positions(self, step: Step, opening: Opening | None) -> Moved:
        """Move the positions without an event, over transaction markers.

        Raises:
            LedgerConflictError: another run has taken over; nothing was written.
        """
        faults.reach(FaultPoint.BEFORE_DATABASE_COMMIT)
        moved = self._until_committed(lambda: self._advance(step, opening, written=None, scored=None, rows=None))
        self._complete(moved)
        return moved

    def _advance(
        self,
        step: Step,
        opening: Opening | None,
        written: Written | None,
        scored: ScoredMessages | None,
        *,
        rows: BinaryArray | None,
    ) -> Moved:
        """Record the commit in the ledger, with the rows that are not written yet."""
        ends = {partition: end for partition, end in step.ends.items() if end > self._positions[partition]}
        advance = ledger.Advance(
            batch=self._source.batch,
            lanes=self._lanes,
            topic_id=self._source.topic_id,
            starts=self._positions,
            ends=ends,
            last_records=step.last_records,
            predictions=len(written.predictions) if written else 0,
            dead_letters=written.dead_letters if written else 0,
            duplicates=written.duplicates if written else 0,
            erased=written.erased if written else 0,
            erasures=self.erased.version,
            opened=opening.opened if opening else None,
            accepts_from=opening.accepts_from if opening else None,
            accepts_until=opening.accepts_until if opening else None,
            model_version=scored.scored.champion_version if scored else None,
            hours=written.hours if written else (),
            schema=self._schema,
        )
        advanced = ledger.advance(
            self._connection,
            advance,
            rows=rows,
            risky=high_risk_ids(written.predictions, self._high_risk_threshold) if written else NO_IDS,
            threshold=self._high_risk_threshold,
        )
        return Moved(ends, advanced)

    def _complete(self, moved: Moved) -> None:
        faults.reach(FaultPoint.AFTER_DATABASE_COMMIT)
        self._positions.update(moved.ends)
