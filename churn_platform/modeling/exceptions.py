"""What can go wrong with a model or its bundle."""

from churn_platform.errors import PlatformError


class BundleError(PlatformError):
    """A model bundle that cannot be used: the message says which part, where, and what to do."""


class BundleIncompleteError(BundleError):
    """A part of the bundle, or its manifest, is not there."""


class BundleTamperedError(BundleError):
    """A part's bytes are not those that were saved."""


class BundleFormatError(BundleError):
    """A part cannot be read, or does not fit this version of the platform."""


class StaleComparisonError(Exception):
    """A comparison with a champion that is champion no longer."""


class SkewError(Exception):
    """Raw rows and prepared features of the same customers that score differently."""


class TrainingDataError(PlatformError):
    """Rows that no model can be trained or judged on."""
