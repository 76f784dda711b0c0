"""Errors of reading and writing files of the artifacts root."""


class ArtifactNotFoundError(FileNotFoundError):
    """A file is missing from the artifacts root."""


class ArtifactStoreError(OSError):
    """The S3 server rejects a request or cannot be reached. The text starts with the remedy."""

    def __init__(self, problem: str, *, remedy: str) -> None:
        """Create the error.

        Args:
            problem: the address that was requested, and the result.
            remedy: what to do about it.
        """
        super().__init__(f"{remedy} {problem}")
        self.problem = problem
        self.remedy = remedy


class ArtifactStoreUnreachableError(ArtifactStoreError):
    """The S3 server does not respond or has an internal error. A later attempt may succeed."""
