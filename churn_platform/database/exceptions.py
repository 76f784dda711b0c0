"""Errors of the database."""

from churn_platform.errors import PlatformError


class LedgerConflictError(PlatformError):
    """The positions are not those that a commit expected, because another run moved them. Nothing was written."""

    transient = True


class SchemaConflictError(PlatformError):
    """The tables hold other customers than the customer schema describes, and cannot be changed to fit it."""


class TableInUseError(PlatformError):
    """Another session uses a table that has to be changed."""

    transient = True
