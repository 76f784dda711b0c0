"""Transactional sending. What is sent, and when a transaction begins and ends, is the caller's concern."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from churn_platform.kafka import clients
from churn_platform.kafka.clients import ProducerFactory
from churn_platform.kafka.config import KafkaConfig


class TransactionalProducer:
    """A Kafka producer for transactions. overdue_error() detects a call that never returns.

    After an error, or when the outcome of a transaction is not known, it has to be replaced: the transaction
    coordinator then settles what this one left open.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        transactional_id: str,
        *,
        call_seconds: float,
        grace_seconds: float,
        make_producer: ProducerFactory = clients.producer,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the client; nothing is sent before initialize().

        Args:
            kafka: the brokers.
            transactional_id: a producer with this id fences the one before it.
            call_seconds: time-out of each call.
            grace_seconds: a call that has not returned this long after its time-out is treated as failed.
            make_producer: creates the client from librdkafka settings.
            monotonic: the clock of these times.
        """
        self._call_seconds = call_seconds
        self._grace_seconds = grace_seconds
        self._monotonic = monotonic
        self._overdue = math.inf
        self._producer = make_producer(
            {
                **kafka.client,
                "transactional.id": transactional_id,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 0,
                "retry.backoff.ms": 5,  # the default of 100 turns 7 ms of sending the offsets into 98 ms
                "batch.size": 1_000_000,
                "batch.num.messages": 100_000,
                "queue.buffering.max.messages": 1_000_000,
                "partitioner": "murmur2_random",  # as Java clients do, so messages of one key share a partition
            }
        )

    def warm_up(self, topic: str) -> None:
        """Find the brokers of a topic, which has to exist, before there is something to send."""
        self._producer.list_topics(topic, self._call_seconds)

    def initialize(self) -> None:
        """Fence the previous producer of this transactional id, and settle the transaction that it left open."""
        self._within_time(self._producer.init_transactions, self._call_seconds)

    def begin(self) -> None:
        """Begin a transaction."""
        self._producer.begin_transaction()

    def send(self, topic: str, messages: list[dict[str, Any]]) -> None:
        """Send messages within the transaction, in the form that Producer.produce_batch() accepts.

        Raises:
            KafkaException: the client did not accept a message.
        """
        self._producer.produce_batch(topic, messages)
        refused = [message["_error"] for message in messages if "_error" in message]  # set by produce_batch()
        if refused:
            raise KafkaException(refused[0])

    def flush(self) -> None:
        """Wait until the brokers have what was sent, so that the client's queue has room again."""
        self._within_time(self._producer.flush, self._call_seconds)

    def send_offsets(self, offsets: Sequence[TopicPartition], group_metadata: object) -> None:
        """Commit offsets of a consumer group within the transaction."""
        self._within_time(self._producer.send_offsets_to_transaction, list(offsets), group_metadata, self._call_seconds)

    def commit(self) -> None:
        """Commit the transaction."""
        self._within_time(self._producer.commit_transaction, self._call_seconds)

    def overdue_error(self) -> KafkaException | None:
        """Return the error of a call that has not returned within its time; None if there is none."""
        if self._monotonic() <= self._overdue:
            return None
        # The calling thread stays blocked. The next producer's init_transactions() fences this one.
        given_up = self._call_seconds + self._grace_seconds
        text = f"a call has not returned for {given_up:g} s, its time-out was {self._call_seconds:g} s"
        return KafkaException(KafkaError(KafkaError._TIMED_OUT, text))

    def _within_time(self, call: Callable[..., object], *arguments: object) -> None:
        """Make a call that has to return within its time-out; overdue_error() reports when it does not."""
        self._overdue = self._monotonic() + self._call_seconds + self._grace_seconds
        call(*arguments)
        self._overdue = math.inf


def fence(
    kafka: KafkaConfig,
    transactional_id: str,
    *,
    call_seconds: float,
    make_producer: ProducerFactory = clients.producer,
) -> None:
    """Fence the last producer of a transactional id, and settle the transaction that it left open.

    Args:
        kafka: the brokers.
        transactional_id: of the producer.
        call_seconds: time-out of the request.
        make_producer: creates the client from librdkafka settings.

    Raises:
        KafkaException: the brokers refuse, or do not answer in time.
    """
    producer = make_producer({**kafka.client, "transactional.id": transactional_id})
    try:
        producer.init_transactions(call_seconds)
    finally:
        producer.close()
