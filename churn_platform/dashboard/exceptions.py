"""Errors of the dashboard."""

from churn_platform.errors import PlatformError


class DashboardError(PlatformError):
    """The dashboard cannot be started or its users cannot be read."""


class NotFoundError(Exception):
    """There is no such page, customer or case. The text says what was looked for."""


class ForbiddenError(Exception):
    """The user's role may not do this. The text says what it may not do."""


class ConflictError(Exception):
    """A change does not fit what somebody else has changed meanwhile. The text says what has changed."""


class BusyError(Exception):
    """The server does as much as it can already. The text says what to do."""
