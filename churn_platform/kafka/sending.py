"""Sending messages to a topic and waiting until Kafka has acknowledged them. Transactional sending is not here."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message

from churn_platform.kafka import clients
from churn_platform.kafka.exceptions import SendError

FLUSH_SECONDS: Final = 30
# With a rate, messages that are due within this time are sent together. A sleep is no more precise than that.
SLICE_SECONDS: Final = 0.01
QUEUE_SECONDS: Final = 0.1  # between two attempts while librdkafka's queue is full
# librdkafka's own limit, a little less than that of a broker (1,048,588 bytes with the header of the batch).
MESSAGE_BYTES: Final = 1_000_000


class Sender:
    """Sends messages to one topic and remembers which of them failed."""

    def __init__(self, client: Mapping[str, str | int | float | bool], topic: str) -> None:
        """Open a producer.

        Args:
            client: librdkafka settings of the brokers.
            topic: must exist.
        """
        self.sent = 0
        self._topic = topic
        self._failures: list[KafkaError] = []
        self._producer = clients.producer(
            {
                **client,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "message.max.bytes": MESSAGE_BYTES,
                "linger.ms": 1,  # messages that are due together are sent together
                "batch.size": 1_000_000,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 500_000,
                "log_level": 2,  # while a broker starts, failed connections are normal; real errors are raised
            }
        )

    @property
    def has_failed(self) -> bool:
        """Whether Kafka has refused a message."""
        return bool(self._failures)

    def send(self, key: str, value: bytes | None) -> None:
        """Queue a message; without a value it is a tombstone.

        Raises:
            SendError: it is too large.
        """
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._on_delivery)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                raise SendError(
                    f"The message with the key {key!r} has {len(value or b''):,} bytes, more than the limit of "
                    f"{MESSAGE_BYTES:,} bytes. Messages before it may have been sent.",
                    remedy="Leave out what the platform does not read.",
                ) from error
            except BufferError:  # librdkafka's queue is full
                self._producer.poll(QUEUE_SECONDS)
            else:
                self.sent += 1
                return

    def poll(self) -> None:
        """Handle the acknowledgements that have arrived."""
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until every message is acknowledged.

        Raises:
            SendError: Kafka did not acknowledge a message.
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        """
        unacknowledged = self._producer.flush(FLUSH_SECONDS)
        if self._failures or unacknowledged:
            first = self._failures[0] if self._failures else KafkaError(KafkaError._TIMED_OUT)
            named = clients.find_access_error(self._producer, first)
            raise SendError(
                f"{len(self._failures) + unacknowledged} of {self.sent} messages were not acknowledged by Kafka. "
                f"{first.str() if named is None else named.problem}",
                remedy="" if named is None else named.remedy,
            )

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failures.append(error)


def send(
    client: Mapping[str, str | int | float | bool],
    topic: str,
    messages: Iterable[tuple[str, bytes]],
    *,
    rate: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Send messages and wait until Kafka has acknowledged them.

    Args:
        client: librdkafka settings of the brokers.
        topic: must exist.
        messages: keys and values.
        rate: messages a second; None: as fast as Kafka accepts them.
        progress: called with the number of messages sent so far.

    Returns:
        How many were sent.

    Raises:
        SendError: Kafka did not acknowledge a message.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    sender = Sender(client, topic)
    started = time.monotonic()
    for key, value in messages:
        while rate is not None and sender.sent > rate * (time.monotonic() - started):
            sender.poll()
            time.sleep(SLICE_SECONDS)
        if sender.has_failed:
            break
        sender.send(key, value)
        progress(sender.sent)
    sender.flush()
    return sender.sent
