"""Errors of the demonstration."""

from churn_platform.errors import PlatformError


class DemoError(PlatformError):
    """A run failed, or an expected result did not arrive in time."""
