"""Errors of training, evaluating and promoting a model."""

from churn_platform.errors import PlatformError


class StaleComparisonError(PlatformError):
    """The champion has changed since a model was compared with it."""


class TrainingDataError(PlatformError):
    """No model can be trained or evaluated on these rows."""


class IncomparableModelError(PlatformError):
    """The champion cannot score the rows that a new version is compared on."""


class WeakFirstModelError(PlatformError):
    """A first model does not predict well enough to become champion."""


class ShadowRequiredError(PlatformError):
    """A version may not be promoted before it was a shadow for SHADOW_DAYS."""
