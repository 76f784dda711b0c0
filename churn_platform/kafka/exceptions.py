"""Errors of Kafka clients and topics."""

from churn_platform.errors import PlatformError


class KafkaAccessError(PlatformError):
    """Base of the errors of this package."""


class KafkaSettingsError(KafkaAccessError):
    """librdkafka cannot create a client from the Kafka settings."""


class BrokerRefusedError(KafkaAccessError):
    """The brokers refuse this client, or it does not trust them. Retrying does not help."""


class BrokersUnreachableError(KafkaAccessError):
    """No broker answers."""

    transient = True


class TopicMissingError(KafkaAccessError):
    """The topic does not exist on these brokers."""


class TopicChangedError(KafkaAccessError):
    """The topic changed while it was read: it was recreated, or has more partitions."""

    transient = True


class ReadingStalledError(KafkaAccessError):
    """A consumer returns nothing although the topic holds more. A new consumer may return it."""

    transient = True


class RangeLostError(KafkaAccessError):
    """Kafka no longer holds offsets that have to be read."""


class LogTruncatedError(RangeLostError):
    """The topic's log lost its end, and its offsets now hold other records than those that were read."""


class SendError(KafkaAccessError):
    """Kafka did not acknowledge some messages."""
