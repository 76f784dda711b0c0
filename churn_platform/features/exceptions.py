"""Errors between a raw row and its features."""

from churn_platform.errors import PlatformError


class FeatureError(PlatformError):
    """A raw row has no features, or a fitted step cannot make them."""


class MissingColumnError(FeatureError):
    """A column that a step reads is missing."""


class UnknownCategoryError(FeatureError):
    """A value is not one of the categories that the encoder was fitted on, or is a null that is not imputed."""


class MetadataError(FeatureError):
    """The JSON of a fitted step, or its values, are not what this version of the platform expects."""
