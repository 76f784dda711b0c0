"""Errors of this package."""

from churn_platform.errors import PlatformError


class TargetError(PlatformError):
    """A target of messages has an address that cannot be used. The error names the target and shows no address."""
