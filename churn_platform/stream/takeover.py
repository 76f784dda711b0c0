"""The takeover: what a run does between acquiring the lock and reading its first event."""

from collections.abc import Mapping
from dataclasses import dataclass

from churn_platform.database import (
    churn_predictions,
    erased_customers,
    recovered_predictions,
    stream_batches,
    stream_positions,
)
from churn_platform.database.catalog import RowType
from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.database.stream_positions import LastRecord
from churn_platform.kafka import topics
from churn_platform.kafka.topics import Topic
from churn_platform.lanes import require_lanes
from churn_platform.positions import backlog
from churn_platform.positions.truncation import Resumed, resume
from churn_platform.stream.exceptions import UnknownBatchError
from churn_platform.stream.result import Ending
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.warm_up import Connections


@dataclass(frozen=True)
class Takeover:
    """Where a run continues.

    Attributes:
        topic: the events topic.
        own: the topic with the partitions of the run's lane alone.
        batch: the run's batch.
        positions: next offset to read, by Kafka partition.
        last_records: the last record read before each position, where one is known.
        resumed: what the consumer read while the log was compared with the last records.
        row_type: of the rows of churn_predictions.
        paused: whether the stream is paused.
        erased: the customers who were erased.
    """

    topic: Topic
    own: Topic
    batch: stream_batches.Batch
    positions: Mapping[int, int]
    last_records: Mapping[int, LastRecord]
    resumed: Resumed
    row_type: RowType
    paused: bool
    erased: ErasedCustomers


def is_closed(run: RunContext, connections: Connections) -> bool:
    """Return whether another run has closed the batch, for example while this one was frozen.

    Raises:
        UnknownBatchError: the ledger does not know the batch.
    """
    batch = stream_batches.find_batch(connections.lease.connection, run.batch)
    if batch is None:
        raise UnknownBatchError(
            f"Batch {run.batch} is not in the ledger: keys are planned by the sensor. Choose one that is listed."
        )
    return batch.closed is not None


def take_over(run: RunContext, connections: Connections) -> Takeover | Ending:
    """Close the batches that other runs of the lane left open, and find out where to continue. The run holds the lock.

    Returns:
        Where to continue, or why there is nothing to do.

    Raises:
        TopicMissingError: there is nothing to read.
        LanesError: the topic has fewer partitions than there are lanes.
        RangeLostError: Kafka no longer holds the next offset, or its log is not the one that was read.
        LedgerBehindError: the database was restored to an earlier state.
    """
    connection = connections.lease.connection
    topic = topics.describe(connections.admin, run.config.events_topic)
    require_lanes(run.lane.of, topic=topic.name, partitions=len(topic.partitions))
    own = topics.part_of(topic, run.lane)
    with connection.transaction():
        orphans = stream_batches.take_over(connection, batch=run.batch, run_id=run.run_id, lane=run.lane)
        batch = stream_batches.find_batch(connection, run.batch)
    for orphan in orphans:
        run.log(f"Closed batch {orphan.batch}, left open by run {orphan.run_id} with {orphan.events} events.")
    state = connections.lease.heartbeat()
    if state.lanes_changed:
        return Ending.LANES
    if batch is None or batch.closed is not None:
        return Ending.CLOSED
    if any(each.topic_id != topic.topic_id for each in stream_batches.ranges_of(connection, run.batch)):
        # A batch is read from one topic only. The next run publishes what this batch has not published.
        stream_batches.close_unfinished(connection, run.batch)
        return Ending.TOPIC
    if batch.schema_fingerprint not in (None, run.config.schema.fingerprint):
        # All events of a batch are decoded with one schema, so that a replay accepts the same ones.
        stream_batches.close_unfinished(connection, run.batch)
        return Ending.SCHEMA
    if batch.high_risk_threshold not in (None, run.config.high_risk_threshold):
        # The sums of a batch count its high-risk predictions by one threshold.
        stream_batches.close_unfinished(connection, run.batch)
        return Ending.THRESHOLD
    connections.follower.follow(connection, state.champion)
    connections.canary.follow(connection, state.canary)
    backlog.register(connection, connections.admin, topic, run.config.start)
    positions = run.lane.select(stream_positions.next_offsets(connection, topic.topic_id))
    last_records = run.lane.select(stream_positions.last_records(connection, topic.topic_id))
    resumed = resume(connections.consumer.current, topic.name, positions, last_records)
    stream_positions.add_last_records(connection, topic_id=topic.topic_id, records=resumed.found)
    connections.publisher.require_not_ahead(own, positions, recovered_predictions.reached(connection, topic.topic_id))
    return Takeover(
        topic=topic,
        own=own,
        batch=batch,
        positions=positions,
        last_records={**last_records, **resumed.found},
        resumed=resumed,
        row_type=churn_predictions.row_type(connection),
        paused=state.paused,
        erased=erased_customers.load(connection),
    )
