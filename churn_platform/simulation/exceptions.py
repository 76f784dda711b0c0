"""What stops the demonstration."""

from churn_platform.errors import PlatformError


class DemoError(PlatformError):
    """A run failed, or something did not come in time."""
