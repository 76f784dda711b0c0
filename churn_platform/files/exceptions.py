"""Errors of the files below the artifacts root."""

from churn_platform.errors import PlatformError


class ArtifactNotFoundError(PlatformError, FileNotFoundError):
    """A file that should be below the artifacts root does not exist."""


class ArtifactStoreError(PlatformError, OSError):
    """The S3 server refuses a request, or cannot be reached. Its text starts with the remedy, because
    the problem ends with the server's own message, which may be long."""

    def __init__(self, problem: str, *, remedy: str) -> None:
        """Describe the error.

        Args:
            problem: the address, and what happened.
            remedy: what to do about it.
        """
        super().__init__(problem, remedy=remedy)
        self.args = (f"{remedy} {problem}",)


class ArtifactStoreUnreachableError(ArtifactStoreError):
    """No S3 server answers, or the server has an internal error. The same request may succeed later."""
