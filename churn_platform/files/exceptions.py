"""What can go wrong with the files of the artifacts root."""


class ArtifactNotFoundError(FileNotFoundError):
    """A file that should be under the artifacts root is not there."""


class ArtifactStoreError(OSError):
    """The S3 server refuses, or is not to be reached. Its text says first what to do about it."""

    def __init__(self, problem: str, *, remedy: str) -> None:
        """Name the problem and the way out.

        Args:
            problem: the address that was asked for, and what came of it.
            remedy: what to do about it.
        """
        super().__init__(f"{remedy} {problem}")
        self.problem = problem
        self.remedy = remedy


class ArtifactStoreUnreachableError(ArtifactStoreError):
    """No S3 server answers, or what answers has a fault of its own: the same may work later."""
