"""Errors of the stream."""

from churn_platform.errors import PlatformError


class StreamError(PlatformError):
    """Base of the stream's own errors."""


class RunEndedError(StreamError):
    """The end of this run was recorded while it was still working. It stops and reports nothing."""


class InvariantViolation(StreamError):  # noqa: N818  the field's term; "Error" would add nothing
    """events = predictions + dead letters + duplicates does not hold. Nothing was written."""


class UnknownBatchError(StreamError):
    """The ledger has no batch with this key."""


class ReplayError(StreamError):
    """The batch cannot be replayed. Nothing was changed."""


class NoChampionError(StreamError):
    """No model version has been promoted, so nothing can be scored."""


class SchemaDisagreementError(StreamError):
    """The champion cannot score events of this customer schema."""


class SchemaNotRecordedError(StreamError):
    """The database's tables were not prepared for the customer schema."""


class LockLostError(StreamError):
    """Another session has taken the lock since this run had it. Nothing was published since."""

    transient = True


class PublishError(StreamError):
    """Kafka did not accept predictions that the table already holds. The next run publishes them first."""

    def __init__(self, problem: str, *, transient: bool) -> None:
        """Describe the error.

        Args:
            problem: which topic, and what Kafka answered.
            transient: whether that answer is transient.
        """
        super().__init__(problem)
        self.transient = transient
