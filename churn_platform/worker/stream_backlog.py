"""How many events wait for the stream in Kafka, for duties that leave the machine to it while there are many."""

import threading
from collections.abc import Callable, Mapping
from typing import Final

import psycopg
from confluent_kafka import KafkaException

from churn_platform.errors import PlatformError
from churn_platform.kafka import clients
from churn_platform.positions.lag import read_lag

# Seconds that a request to Kafka may take. A duty that gets no answer follows the stream as usual.
KAFKA_SECONDS: Final = 2.0

StreamBacklog = Callable[[psycopg.Connection], int]
"""Returns how many offsets of the events topic the stream has not read yet; 0 if nobody knows."""


class KafkaBacklog:
    """Asks Kafka, with one client that is opened by the first question. Several threads may ask."""

    def __init__(self, kafka_client: Mapping[str, clients.Setting], topic: str) -> None:
        """Connect to nothing yet.

        Args:
            kafka_client: librdkafka settings of the brokers.
            topic: the events topic.
        """
        self._settings = {**kafka_client, "socket.timeout.ms": round(KAFKA_SECONDS * 1000)}
        self._topic = topic
        self._admin: clients.Admin | None = None
        self._lock = threading.Lock()

    def __call__(self, connection: psycopg.Connection) -> int:
        """Return how many offsets wait now; 0 if Kafka does not answer, or has no such topic."""
        try:
            with self._lock:
                if self._admin is None:
                    self._admin = clients.admin(self._settings)
                admin = self._admin
            return read_lag(connection, admin, self._topic).waiting
        except (PlatformError, KafkaException):
            return 0


def unknown(_: psycopg.Connection) -> int:
    """Return 0: without Kafka, nobody knows."""
    return 0
