"""What can go wrong between a raw row and its features."""


class FeatureError(Exception):
    """A raw row, or a fitted step, that cannot give the features."""


class MissingColumnError(FeatureError):
    """A column that a step reads is not there."""


class UnknownCategoryError(FeatureError):
    """A category that the encoder was not fitted on, or a null where none can be imputed."""


class MetadataError(FeatureError):
    """A fitted step's JSON, or its values, are not what this version of the platform reads."""
