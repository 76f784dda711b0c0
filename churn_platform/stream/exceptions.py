"""What can go wrong with the stream and is worth a name."""

from churn_platform.errors import PlatformError


class StreamError(PlatformError):
    """Base of the stream's own errors."""


class KafkaSettingsError(StreamError):
    """The Kafka settings do not make a client."""


class BrokerRefusedError(StreamError):
    """The brokers refuse this client, or it does not trust them; trying again changes nothing."""


class BrokersUnreachableError(StreamError):
    """No broker answers."""


class TopicMissingError(StreamError):
    """The topic does not exist on these brokers."""


class TopicChangedError(StreamError):
    """The topic is not what it was when its reading began: it was made anew, or has more partitions."""


class RangeLostError(StreamError):
    """Kafka no longer holds offsets that have to be read."""


class LogTruncatedError(RangeLostError):
    """A topic's log is not the one that was read: its end was lost, and other records have taken the offsets."""


class LedgerBehindError(StreamError):
    """More was published than the ledger has read: the database was restored to an earlier state."""


class LedgerConflictError(StreamError):
    """The ledger does not stand where this commit believed: another run has moved on, and nothing was written."""


class RunEndedError(StreamError):
    """Dagster's record of this run has ended while the run was still at work: it stops and reports nothing."""


class InvariantViolation(StreamError):  # noqa: N818  an invariant is violated; "Error" adds nothing
    """events = predictions + dead letters + duplicates does not hold; nothing was written."""


class EnvironmentConflictError(StreamError):
    """Another environment has the same predictions topic, consumer group or database; nothing was written."""


class UnknownBatchError(StreamError):
    """A batch key that the ledger does not know."""


class ReplayError(StreamError):
    """A batch that cannot be replayed; nothing was changed."""


class NoChampionError(StreamError):
    """No model version has been promoted, so nothing can be scored."""


class PublishError(StreamError):
    """Kafka did not take predictions that the table already holds; the next run publishes them first."""


class ResetError(StreamError):
    """A position that cannot be moved there; nothing was changed."""


class StreamIsLiveError(ResetError):
    """A run reads and commits, so nothing may be moved now."""


class DeadLetterError(StreamError):
    """A dead letter that is not there, or cannot be retried like this; nothing was sent for it."""
