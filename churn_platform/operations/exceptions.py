"""Errors of the operators' commands."""

from churn_platform.errors import PlatformError


class ResetError(PlatformError):
    """The position cannot be moved there. Nothing was changed."""


class StreamIsLiveError(ResetError):
    """A run reads and commits, so no position may be moved now."""


class DeadLetterError(PlatformError):
    """The dead letter does not exist, or cannot be retried like this. Nothing was sent for it."""


class OutcomeSourceError(PlatformError):
    """A file of outcomes that cannot be read, or no customer to simulate outcomes for."""


class ErasureError(PlatformError):
    """A customer cannot be erased now, or not completely. The message says what was done."""
