"""Errors of the ledger in PostgreSQL."""

from churn_platform.errors import PlatformError


class LedgerConflictError(PlatformError):
    """The positions are not those that this commit expected: another run moved them. Nothing was written."""

    transient = True
