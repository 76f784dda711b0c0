"""The S3 bucket of CHURN_ARTIFACTS as a part of the stack. It is always the user's own and is checked first."""

from dataclasses import asdict
from pathlib import Path
from typing import Final

from churn_platform.files.artifacts import claim
from churn_platform.files.exceptions import ArtifactStoreError
from churn_platform.files.s3 import Access, store
from churn_platform.local.environment import ARTIFACTS_VARIABLE, S3_VARIABLES
from churn_platform.local.errors import StackError
from churn_platform.local.part import Part, Problem

NAME: Final = "s3"


def part(root: str, access: Access, folder: Path) -> Part:
    """Return the bucket as a part without a command.

    Args:
        root: s3://bucket/prefix.
        access: how to reach the S3 server.
        folder: the stack's folder.
    """
    return Part(
        name=NAME,
        title="S3",
        command=(),
        address=ARTIFACTS_VARIABLE,
        folder=folder,
        problem=lambda: problem(root, access),
    )


def require(root: str, access: Access) -> None:
    """Check that files can be kept below the root, and mark the root as the platform's.

    Raises:
        StackError: the bucket, its region, the credentials or the connection to the server is wrong.
    """
    try:
        store(access).check(root)
        claim(root)
    except ArtifactStoreError as error:
        raise StackError(error.problem, remedy=error.remedy) from error


def problem(root: str, access: Access) -> Problem | None:
    """Return the problem with the bucket and what to do about it; None if there is none."""
    try:
        store(access).check(root)
    except ArtifactStoreError as error:
        return Problem(str(error), lasting=True)
    return None


def environment(access: Access) -> dict[str, str]:
    """Return the variables that a process needs to find the S3 server, because AWS's libraries do not read `.env`."""
    return {S3_VARIABLES[name]: value for name, value in asdict(access).items() if value is not None}
