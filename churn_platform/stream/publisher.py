"""Publishing of predictions, in a separate thread. Each Kafka transaction also commits its published offsets."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import psycopg

from churn_platform.database.prediction_columns import prediction_table
from churn_platform.environments.published_offsets import (
    attributed_offsets,
    make_offsets_consumer,
    published_offset,
    require_not_ahead,
)
from churn_platform.kafka.reading import make_consumer
from churn_platform.kafka.topics import Topic
from churn_platform.kafka.transactions import TransactionalProducer
from churn_platform.lanes import transactional_id
from churn_platform.stream import faults
from churn_platform.stream.already_published import AlreadyPublished
from churn_platform.stream.exceptions import PublishError
from churn_platform.stream.faults import FaultPoint
from churn_platform.stream.prediction_messages import messages, messages_of
from churn_platform.stream.prediction_values import message_frame
from churn_platform.stream.publish_pace import PublishPace
from churn_platform.stream.recovery import Recovery
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.scoring import ScoredEvents
from churn_platform.transience import is_transient

# While publish() waits for space in the queue, it checks this often whether the thread has failed.
CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class Publication:
    """What a commit publishes: its predictions, and the position after it, by partition of the events topic."""

    batch: str
    predictions: ScoredEvents | None
    ends: Mapping[int, int]

    def __len__(self) -> int:
        return 0 if self.predictions is None else len(self.predictions)


class Publisher:
    """Publishes commits in their order, each exactly once.

    Only the run that holds the lock of its lane starts it: init_transactions() fences the lane's previous publisher.
    Then it checks that the run still has the lock. A run that was frozen in between may not publish: its partitions may
    belong to another lane by now, whose publisher has another transactional id and so would not fence this one. A
    transaction that fails, or whose outcome is not known, ends the thread. The next publisher has a new producer, which
    settles what this one left open, and reads the outcome from the published offsets.
    """

    def __init__(self, run: RunContext, environment: str) -> None:
        """Create the clients; nothing is sent before begin().

        Args:
            run: the run.
            environment: id of the environment, which the published offsets carry.
        """
        self._config = run.config
        self._lane = run.lane
        self._pace = PublishPace(interval=run.publish_interval, linger=run.linger)
        self._table = prediction_table(run.config.schema)
        self._limits = run.limits
        self._environment = environment
        self._consumer = make_consumer(run.config.kafka)
        self._offsets_consumer = make_offsets_consumer(run.config.kafka)
        # Read here: in the publisher's thread, the call would take seconds while the main thread polls.
        self._group = self._consumer.consumer_group_metadata()
        self._producer = TransactionalProducer(
            run.config.kafka,
            transactional_id(run.config.kafka.group, run.lane.number),
            call_seconds=run.limits.kafka_seconds,
            grace_seconds=run.limits.kafka_grace_seconds,
            make_producer=run.make_producer,
        )
        self._queue: queue.SimpleQueue[Publication | None] = queue.SimpleQueue()
        self._queued = 0  # predictions in the queue
        self._space = threading.Condition()  # guards _queued
        self._released = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.published = 0
        self.recovered = 0

    def warm_up(self) -> None:
        """Find the brokers of the predictions topic, which has to exist, before there is something to send."""
        self._producer.warm_up(self._config.predictions_topic)

    def require_not_ahead(self, topic: Topic, positions: Mapping[int, int], recovered: Mapping[int, int]) -> None:
        """Raise an error if more was published than the ledger has read. Call it before begin().

        Args:
            topic: the events topic.
            positions: next offset to read, by Kafka partition.
            recovered: how far predictions had been published before restores that were reconciled, by Kafka partition.

        Raises:
            LedgerBehindError: the database was restored to an earlier state.
        """
        published = attributed_offsets(self._offsets_consumer, topic, seconds=self._limits.kafka_seconds)
        require_not_ahead(topic.name, positions, recovered, published)

    def begin(
        self, topic: Topic, positions: Mapping[int, int], *, require_lock: Callable[[psycopg.Connection], None]
    ) -> None:
        """Start the thread. It first publishes the predictions between the published offsets and these positions.

        Args:
            topic: the events topic, with the partitions of the lane alone.
            positions: next offset to read in the ledger, by Kafka partition.
            require_lock: raises an error unless the run still holds the lock; called with a connection of the thread.
        """
        arguments = (topic, dict(positions), require_lock)
        self._thread = threading.Thread(target=self._run, args=arguments, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, publication: Publication) -> None:
        """Queue a commit; wait while too many predictions are queued.

        Raises:
            PublishError: the thread has failed.
        """
        with self._space:
            while self._queued > self._limits.queued_predictions:
                self.check()
                self._space.wait(CHECK_SECONDS)
            self._queued += len(publication)
        self._queue.put(publication)

    def check(self) -> None:
        """Raise the error that stopped the thread, or an error if one of its calls does not return.

        Raises:
            PublishError: Kafka did not accept a transaction.
        """
        error = self._error or self._producer.overdue_error()
        if error is not None:
            raise PublishError(
                f"Predictions could not be published to {self._config.predictions_topic!r}: {error}. "
                f"They are safe in churn_predictions and are published before anything that follows.",
                transient=is_transient(error),
            ) from error

    def finish(self, meanwhile: Callable[[], object], *, every: float) -> None:
        """Wait until everything in the queue is published, and end the thread.

        Args:
            meanwhile: called during the wait.
            every: seconds between these calls.

        Raises:
            PublishError: something was not published.
        """
        if self._thread is None:
            raise RuntimeError("The publisher was never started, so there is nothing to finish.")
        self._queue.put(None)
        while self._thread.is_alive():
            self._thread.join(every)
            if self._thread.is_alive():
                meanwhile()
                self.check()
        self.check()

    def release(self) -> None:
        """Let the thread end as soon as it can, even if predictions are still queued."""
        self._released = True
        self._queue.put(None)
        if self._thread is None:  # nothing else closes the consumer
            self._consumer.close()
            self._offsets_consumer.close()

    def _run(
        self, topic: Topic, positions: Mapping[int, int], require_lock: Callable[[psycopg.Connection], None]
    ) -> None:
        """Do the thread's work; see begin()."""
        try:
            self._producer.initialize()
            with AlreadyPublished(self._config.dsn, topic) as already_published:
                recovery = Recovery(
                    self._config,
                    topic,
                    positions,
                    lane=self._lane,
                    require_lock=require_lock,
                    consumer=self._consumer,
                    seconds=self._limits.kafka_seconds,
                    most=self._limits.transaction_predictions,
                    send=lambda predictions, ends: self._send_recovered(topic, already_published, predictions, ends),
                )
                recovery.run()
                while (publications := self._next_publications()) is not None:
                    self._send(
                        topic, already_published, self._messages(already_published, publications), _ends(publications)
                    )
        except BaseException as error:  # check() raises it in the main thread
            self._error = error
        finally:
            self._consumer.close()
            self._offsets_consumer.close()

    def _next_publications(self) -> list[Publication] | None:
        """Return the commits to publish next, at least one, up to the size of a transaction; None at the end.

        They are those that are queued when the transaction begins; see PublishPace.
        """
        first = self._queue.get()
        if first is None or self._released:
            return None
        publications, count = [first], len(first)
        while count < self._limits.transaction_predictions:
            seconds = self._pace.seconds_left(time.monotonic())
            try:
                following = self._queue.get(timeout=seconds) if seconds else self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                self._queue.put(None)  # the end, which the next call returns
                break
            publications.append(following)
            count += len(following)
        with self._space:
            self._queued -= count
            self._space.notify()
        self._pace.begin(time.monotonic())
        return publications

    def _send_recovered(
        self, topic: Topic, already_published: AlreadyPublished, predictions: pl.DataFrame, ends: Mapping[int, int]
    ) -> None:
        before = self.published
        self._send(topic, already_published, messages_of(already_published.remove_from(predictions)), ends)
        self.recovered += self.published - before

    def _messages(
        self, already_published: AlreadyPublished, publications: Sequence[Publication]
    ) -> list[dict[str, Any]]:
        """Return the messages of several commits to one batch."""
        predictions = [each.predictions for each in publications if each.predictions]
        if not predictions:
            return []
        batch = publications[0].batch
        if already_published.may_hold_new:
            return messages_of(already_published.remove_from(message_frame(self._table, batch, predictions)))
        return messages(self._table, batch, predictions)

    def _send(
        self,
        topic: Topic,
        already_published: AlreadyPublished,
        predictions: list[dict[str, Any]],
        ends: Mapping[int, int],
    ) -> None:
        """Publish predictions, and the position that they reach as published offsets, in one transaction."""
        self._producer.begin()
        if predictions:
            self._producer.send(self._config.predictions_topic, predictions)
        if ends:
            offsets = [
                published_offset(
                    topic, self._environment, partition, offset=end, highest=already_published.highest(partition)
                )
                for partition, end in ends.items()
            ]
            self._producer.send_offsets(offsets, self._group)
        faults.reach(FaultPoint.BEFORE_KAFKA_COMMIT)
        self._producer.commit()
        faults.reach(FaultPoint.AFTER_KAFKA_COMMIT)
        self.published += len(predictions)


def _ends(publications: Sequence[Publication]) -> dict[int, int]:
    """Return the position after several commits, by Kafka partition."""
    ends: dict[int, int] = {}
    for publication in publications:
        ends.update(publication.ends)
    return ends
