"""Errors of the dashboard."""

from churn_platform.errors import PlatformError


class DashboardError(PlatformError):
    """The dashboard cannot be started or its users cannot be read."""


class NotFoundError(Exception):
    """There is no such page, customer or case. The text says what was looked for."""


class ForbiddenError(Exception):
    """The user's role may not do this. The text says what it may not do."""


class RefusedError(Exception):
    """A change that is not made. The text says why; `back` is the page on which to go on, empty for none."""

    def __init__(self, text: str, *, back: str = "") -> None:
        """Describe why."""
        super().__init__(text)
        self.back = back


class ConflictError(RefusedError):
    """The change does not fit what somebody else has changed meanwhile. The text says what has changed."""


class InvalidInputError(RefusedError):
    """The form has a value that cannot be used. The text says which, and what is expected."""


class ApiUnavailableError(Exception):
    """The prediction API cannot be asked. The text says why."""


class ApiRefusedError(Exception):
    """The prediction API refuses a value. The text says which, and what is expected."""


class BusyError(Exception):
    """The server does as much as it can already. The text says what to do."""
