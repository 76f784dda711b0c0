"""Errors about who owns which topics, consumer group and database."""

from churn_platform.errors import PlatformError


class EnvironmentConflictError(PlatformError):
    """Another environment uses the same predictions topic, consumer group or database. Nothing was written."""


class ClaimsError(PlatformError):
    """Claims cannot be kept: the topic deletes old records, or Kafka did not accept them."""


class LedgerBehindError(PlatformError):
    """More was published than the ledger has read: the database was restored to an earlier state."""


class DatabaseNotMigratedError(PlatformError):
    """The database lacks the platform's tables."""
