"""A commit in PostgreSQL: rows and ledger in one transaction, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import Message

from churn_platform.database import ledger
from churn_platform.database.bulk import BinaryArray
from churn_platform.database.churn_predictions import KnownEventError
from churn_platform.stream import faults
from churn_platform.stream.batch_progress import Opening
from churn_platform.stream.commit_rows import NO_IDS, Source, Written, high_risk_ids, write_rows
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.gatherer import Step
from churn_platform.stream.lease import Lease
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.scoring_thread import ScoredMessages
from churn_platform.stream.takeover import Takeover


@dataclass(frozen=True)
class Moved:
    """How a commit changed the ledger, and the state of the stream at that time.

    Attributes:
        ends: the positions that moved, by Kafka partition.
        champion: version of the champion; None if there is none.
        canary: number of the active canary; None if there is none.
        paused: whether the stream is paused.
    """

    ends: dict[int, int]
    champion: int | None
    canary: int | None
    paused: bool


class Committer:
    """Writes commits over the connection that holds the lock, and tracks the positions that they have reached.

    Only one thread uses it.
    """

    def __init__(self, run: RunContext, lease: Lease, source: Source, takeover: Takeover) -> None:
        self._connection = lease.connection
        self._source = source
        self._schema = run.config.schema
        self._high_risk_threshold = run.config.high_risk_threshold
        self._positions = dict(takeover.positions)

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
        try:
            if scored.given is not None:
                written = Written.of(self._schema, scored.scored, self._high_risk_threshold)
                faults.reach(FaultPoint.BEFORE_DATABASE_COMMIT)
                moved = self._advance(step, opening, written, scored, rows=scored.given)
            else:
                written, moved = self._write(step, opening, messages, scored, compare=False)
        except KnownEventError:
            written, moved = self._write(step, opening, messages, scored, compare=True)
        self._complete(moved)
        return written, moved

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
        moved = self._advance(step, opening, written=None, scored=None, rows=None)
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
            topic_id=self._source.topic_id,
            starts=self._positions,
            ends=ends,
            last_records=step.last_records,
            predictions=len(written.predictions) if written else 0,
            dead_letters=written.dead_letters if written else 0,
            duplicates=written.duplicates if written else 0,
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
        return Moved(ends, advanced.champion, advanced.canary, advanced.paused)

    def _complete(self, moved: Moved) -> None:
        faults.reach(FaultPoint.AFTER_DATABASE_COMMIT)
        self._positions.update(moved.ends)
