"""A backlog run: another engine scores the waiting offsets, up to a bound, and one commit adds them to one batch.

The run holds the lock of its lane from reading the positions to publishing, as a streaming run does, so nothing else
moves the lane's positions meanwhile. It does not stop for a pause.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import psycopg

from churn_platform.database import erased_customers, ledger
from churn_platform.database.spark_staging import StagedPartition
from churn_platform.database.stream_positions import LastRecord
from churn_platform.kafka import topics
from churn_platform.kafka.reading import CHUNK_MESSAGES, read_ranges, require_ranges
from churn_platform.positions.truncation import last_records
from churn_platform.stream import faults
from churn_platform.stream.batch_progress import BatchProgress, Opening
from churn_platform.stream.commit_rows import NO_IDS, Source
from churn_platform.stream.entry import enter
from churn_platform.stream.exceptions import InvariantViolation
from churn_platform.stream.external_scoring import ScoringEngine, discard, stage
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.lease import Lease
from churn_platform.stream.result import Ending
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.staged_rows import StagedWritten, write_staged
from churn_platform.stream.takeover import Takeover, is_closed, take_over
from churn_platform.stream.topic_identity import TopicIdentity
from churn_platform.stream.warm_up import Connections, warm_up

_NOTHING: Final = StagedWritten(predictions=0, dead_letters=0, duplicates=0, erased=0, hours=[])


@dataclass(frozen=True)
class BacklogResult:
    """What a backlog run did. `ending` is why it read nothing; None if it has committed."""

    ending: Ending | None
    events: int = 0
    published: int = 0


class BacklogRun:
    """Scores the backlog with another engine, and commits and publishes the result."""

    def __init__(
        self, run: RunContext, engine: ScoringEngine, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Create the run.

        Args:
            run: its configuration, identity and dependencies.
            engine: scores the offsets.
            monotonic: a clock.
        """
        self._run = run
        self._engine = engine
        self._monotonic = monotonic

    def run(self) -> BacklogResult:
        """Wait for the lock, score, commit and publish.

        Raises:
            ScoringFailedError: the engine has not scored the offsets. Nothing was written.
            AttemptGoneError: a customer was erased meanwhile, or staged rows were lost. Nothing was written.
            LedgerConflictError: another run has taken over. Nothing was written.
            RangeLostError: Kafka no longer holds an offset.
            TopicChangedError: the topic was created again. Nothing was written.
            EnvironmentConflictError: another environment has taken over. Nothing was written.
            PublishError: Kafka did not accept predictions, which the table has. The next run publishes them.
        """
        with warm_up(self._run, None) as connections:
            if is_closed(self._run, connections):
                return BacklogResult(Ending.CLOSED)
            connections.lease.acquire()
            if not enter(self._run, connections):
                return BacklogResult(Ending.LANES)
            takeover = take_over(self._run, connections)
            if isinstance(takeover, Ending):
                return BacklogResult(takeover)
            connections.guard.check_again()  # the wait for the lock may have been long
            ends = self._ends(connections, takeover)
            if not ends:
                return BacklogResult(Ending.IDLE)
            written = self._commit_backlog(connections, takeover, ends)
            connections.publisher.begin(
                takeover.own, {**takeover.positions, **ends}, require_lock=connections.lease.require_held
            )
            connections.publisher.finish(connections.lease.heartbeat, every=self._run.limits.heartbeat_seconds)
            faults.reach(FaultPoint.BEFORE_CLOSING)
            ledger.close_batch(
                connections.lease.connection,
                self._run.batch,
                topic_id=takeover.topic.topic_id,
                lane=self._run.lane,
            )
            return BacklogResult(
                None,
                events=written.events,
                published=connections.publisher.published,
            )

    def _ends(self, connections: Connections, takeover: Takeover) -> dict[int, int]:
        """Return where reading ends in each Kafka partition that has waiting offsets."""
        stable = topics.list_offsets(connections.admin, takeover.topic, topics.LATEST)
        waiting = {partition: stable[partition] - start for partition, start in takeover.positions.items()}
        return {
            partition: takeover.positions[partition] + count
            for partition, count in share(waiting, most=self._engine.backlog_events).items()
        }

    def _commit_backlog(self, connections: Connections, takeover: Takeover, ends: Mapping[int, int]) -> StagedWritten:
        run, lease, version = self._run, connections.lease, connections.follower.current.version
        source = Source(batch=run.batch, topic=takeover.topic.name, topic_id=takeover.topic.topic_id)
        ranges = {partition: (takeover.positions[partition], end) for partition, end in ends.items()}
        progress = BatchProgress(run.config, takeover.batch, now=self._monotonic(), wall_clock=datetime.now(UTC))
        opening = progress.add(0, now=self._monotonic(), wall_clock=datetime.now(UTC))
        with _heartbeats(lease, every=run.limits.heartbeat_seconds):
            has_event = self._has_event(source, ranges)
        if not has_event:
            with lease.connection.transaction():
                erased_customers.hold_off(lease.connection)
                self._advance(lease.connection, source, takeover, ends, None, _NOTHING, records={}, version=None)
            return _NOTHING
        run.log(f"Scoring a backlog of {source.topic} into batch {run.batch}: offsets {ranges}.")
        with _heartbeats(lease, every=run.limits.heartbeat_seconds):
            staged = stage(
                run.config,
                self._engine,
                run.log,
                source=source,
                ranges=ranges,
                schema=run.config.schema,
                accepts_from=opening.accepts_from,
                accepts_until=opening.accepts_until,
                model_version=version,
            )
            # Retention may have deleted the beginning of a range while the engine read it.
            require_ranges(run.config.kafka, source.topic, ranges)
            records = self._last_records(source, ranges, staged.partitions)
        # The engine may have read for a long time.
        connections.guard.check_again()
        TopicIdentity(connections.admin, takeover.topic).check()
        written = self._commit(lease.connection, source, takeover, ends, opening, records, staged.attempt, version)
        faults.reach(FaultPoint.AFTER_DATABASE_COMMIT)
        discard(run.config, staged.attempt)
        return written

    def _has_event(self, source: Source, ranges: Mapping[int, tuple[int, int]]) -> bool:
        """Return whether the ranges hold more than transaction markers."""
        reading = read_ranges(self._run.config.kafka, source.topic, ranges, chunk=1)
        try:
            return next(reading, None) is not None
        finally:
            reading.close()

    def _commit(
        self,
        connection: psycopg.Connection,
        source: Source,
        takeover: Takeover,
        ends: Mapping[int, int],
        opening: Opening,
        records: Mapping[int, LastRecord],
        attempt: UUID,
        version: int,
    ) -> StagedWritten:
        config = self._run.config
        with connection.transaction():
            erased_customers.hold_off(connection)
            # Moving millions of rows takes minutes. So does reading events again that have become dead letters.
            connection.execute("set local statement_timeout = 0")
            connection.execute("set local idle_in_transaction_session_timeout = '10min'")
            connection.execute("set local enable_seqscan = on")
            written = write_staged(
                connection,
                source,
                config.schema,
                attempt,
                erased_customers.load(connection),
                kafka=config.kafka,
                replay=None,
                high_risk_threshold=config.high_risk_threshold,
            )
            connection.execute("set local enable_seqscan = off")
            self._advance(connection, source, takeover, ends, opening, written, records=records, version=version)
            faults.reach(FaultPoint.BEFORE_DATABASE_COMMIT)
        return written

    def _advance(
        self,
        connection: psycopg.Connection,
        source: Source,
        takeover: Takeover,
        ends: Mapping[int, int],
        opening: Opening | None,
        written: StagedWritten,
        *,
        records: Mapping[int, LastRecord],
        version: int | None,
    ) -> None:
        """Move the positions, and add what was written to the batch. Offsets of markers alone do not open it."""
        config = self._run.config
        step = ledger.Advance(
            batch=source.batch,
            lanes=self._run.lane.of,
            topic_id=source.topic_id,
            starts=takeover.positions,
            ends=dict(ends),
            last_records=records,
            predictions=written.predictions,
            dead_letters=written.dead_letters,
            duplicates=written.duplicates,
            erased=written.erased,
            erasures=erased_customers.load(connection).version,
            opened=opening.opened if opening else None,
            accepts_from=opening.accepts_from if opening else None,
            accepts_until=opening.accepts_until if opening else None,
            model_version=version,
            hours=written.hours,
            schema=config.schema,
        )
        # write_staged() has written the high-risk predictions, too.
        ledger.advance(connection, step, rows=None, risky=NO_IDS, threshold=config.high_risk_threshold)

    def _last_records(
        self, source: Source, ranges: Mapping[int, tuple[int, int]], staged: Mapping[int, StagedPartition]
    ) -> dict[int, LastRecord]:
        """Read the last record of each Kafka partition, which shows later that the log is still the same."""
        # Events of erased customers have no rows. If a partition has no others, its range is read again.
        places = {
            partition: ranges[partition] if each.last is None else (each.last, each.last + 1)
            for partition, each in staged.items()
            if each.events
        }
        found: dict[int, LastRecord] = {}
        for messages in read_ranges(self._run.config.kafka, source.topic, places, chunk=CHUNK_MESSAGES):
            found |= last_records(messages, len(places))
        if found.keys() != places.keys():
            raise InvariantViolation(
                f"Batch {source.batch}: the engine has read events of {source.topic} at {places}, by Kafka partition, "
                f"and a consumer finds events in {sorted(found)} only. Nothing was written."
            )
        return found


def share(waiting: Mapping[int, int], *, most: int) -> dict[int, int]:
    """Return how many offsets to read from each Kafka partition, without those from which none is read.

    Args:
        waiting: number of waiting offsets, by Kafka partition.
        most: sum of what is returned. Partitions get equal parts of it, and what one does not need goes to the others.
    """
    found: dict[int, int] = {}
    left = most
    for number, (partition, count) in enumerate(sorted(waiting.items(), key=lambda each: (each[1], each[0]))):
        taken = min(max(count, 0), left // (len(waiting) - number))
        left -= taken
        if taken:
            found[partition] = taken
    return found


@contextmanager
def _heartbeats(lease: Lease, *, every: float) -> Iterator[None]:
    """Renew the lease from a thread while the block runs. Nothing else may use its connection meanwhile.

    Raises:
        psycopg.Error: the lease was lost. Another run may hold the lock.
    """
    stopped, errors = threading.Event(), list[psycopg.Error]()

    def renew() -> None:
        while not stopped.wait(every):
            try:
                lease.heartbeat()
            except psycopg.Error as error:
                errors.append(error)
                return

    thread = threading.Thread(target=renew, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
    if errors:
        raise errors[0]
