"""The bucket of the artifacts, where they go to S3: the user's own, asked before anything starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from churn_platform.files.artifacts import COMPUTE_LOGS, claim, join
from churn_platform.files.exceptions import ArtifactStoreError
from churn_platform.files.s3 import Access, split, store
from churn_platform.local.environment import ARTIFACTS_VARIABLE, S3_VARIABLES
from churn_platform.local.errors import StackError
from churn_platform.local.part import Part, Problem

NAME: Final = "s3"


def part(root: str, access: Access, folder: Path) -> Part:
    """The bucket as a part of the stack.

    Args:
        root: s3://bucket/prefix.
        access: how its server is reached.
        folder: of the stack.
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
    """Make sure, before anything starts, that files can be kept below the root, and that it bears the platform's mark.

    Raises:
        StackError: the bucket, its region, the credentials or the way to the server are not as they should be.
    """
    try:
        store(access).check(root)
        claim(root)
    except ArtifactStoreError as error:
        raise StackError(error.problem, remedy=error.remedy) from error


def problem(root: str, access: Access) -> Problem | None:
    """What is wrong with the bucket, the remedy first; None when nothing is."""
    try:
        store(access).check(root)
    except ArtifactStoreError as error:
        return Problem(str(error), lasting=True)
    return None


def environment(access: Access) -> dict[str, str]:
    """How the server is reached, for a process and what it starts: AWS's libraries do not read `.env`."""
    return {S3_VARIABLES[name]: value for name, value in asdict(access).items() if value is not None}


def compute_logs(root: str, access: Access, folder: Path) -> str:
    """The section of dagster.yaml by which Dagster keeps what steps print in the bucket.

    It holds no credential: Dagster finds them, the region and the server as every AWS library does.

    Args:
        root: s3://bucket/prefix.
        access: says how uploads are encrypted.
        folder: for what running steps have printed so far, and what was fetched to be looked at.
    """
    bucket, prefix = split(join(root, COMPUTE_LOGS))
    config = {
        "bucket": bucket,
        "prefix": prefix,
        "local_dir": str(folder),
        "upload_extra_args": access.upload_arguments,
    }
    manager = {"module": "dagster_aws.s3.compute_log_manager", "class": "S3ComputeLogManager", "config": config}
    return f"\ncompute_logs: {json.dumps(manager, indent=2)}\n"  # JSON is YAML, whatever a name holds
