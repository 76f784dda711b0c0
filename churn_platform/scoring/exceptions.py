"""Errors of a model bundle and of scoring with one."""

from churn_platform.errors import PlatformError


class BundleError(PlatformError):
    """A model bundle cannot be used. The message names the part, where it is, and what to do."""


class BundleIncompleteError(BundleError):
    """The manifest or a part of the bundle is missing."""


class BundleTamperedError(BundleError):
    """The bytes of a part differ from those that were saved."""


class BundleFormatError(BundleError):
    """A part cannot be read, or does not fit this version of the platform."""


class SkewError(PlatformError):
    """Raw rows and prepared features of the same customers have different scores."""
