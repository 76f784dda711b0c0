"""Errors of scoring a customers file."""

from churn_platform.errors import PlatformError


class ScoreFileError(PlatformError):
    """Scores cannot be written where they should be."""
