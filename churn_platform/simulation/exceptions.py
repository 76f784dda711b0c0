"""What stops the demonstration."""

from churn_platform.errors import PlainError


class DemoError(PlainError):
    """A run failed, or something did not come in time."""
