"""Configuration of Kafka: the brokers, the consumer group, and how new topics are created."""

from dataclasses import dataclass
from datetime import timedelta

Setting = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class KafkaConfig:
    """One Kafka cluster as seen by this platform.

    Attributes:
        client: librdkafka settings that all clients share: brokers, encryption, login.
        group: consumer group whose committed offsets are the published offsets.
        partitions: number of partitions of a topic that is created.
        replication: number of replicas of a topic that is created.
        retention: how long a topic that is created keeps its messages.
    """

    client: dict[str, Setting]
    group: str
    partitions: int
    replication: int
    retention: timedelta
