"""Errors of the database."""

from churn_platform.errors import PlatformError


class LedgerConflictError(PlatformError):
    """The positions are not those that a commit expected, because another run moved them. Nothing was written."""

    transient = True
