"""Errors of this package."""

from churn_platform.errors import PlatformError


class ShadowProcessError(PlatformError):
    """The process that scores for a shadow has failed or does not answer."""
