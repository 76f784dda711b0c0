"""Errors of the prediction API."""

from churn_platform.errors import PlatformError


class ApiError(PlatformError):
    """The API cannot be started, or its tokens cannot be read."""


class ProblemError(Exception):
    """A request cannot be answered as it was meant. The answer is a problem document (RFC 9457)."""

    def __init__(self, status: int, title: str, detail: str, *, retry_after: int | None = None) -> None:
        """Describe the problem.

        Args:
            status: HTTP status of the answer.
            title: what is wrong, the same for all problems of its kind.
            detail: what is wrong this time, and what to do.
            retry_after: seconds after which the request may be repeated; None if that would not help.
        """
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.retry_after = retry_after
