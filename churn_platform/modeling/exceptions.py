"""Errors of training, evaluating and promoting a model."""

from churn_platform.errors import PlatformError


class StaleComparisonError(PlatformError):
    """The champion has changed since a model was compared with it."""


class TrainingDataError(PlatformError):
    """No model can be trained or evaluated on these rows."""
