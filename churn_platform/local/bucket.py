"""The bucket of the artifacts, where they go to S3: the user's own, asked before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from churn_platform.local.environment import ARTIFACTS_VARIABLE
from churn_platform.local.errors import StackError
from churn_platform.local.part import Part
from churn_platform.settings import settings
from churn_platform.storage.artifacts import COMPUTE_LOGS, claim, join
from churn_platform.storage.exceptions import ArtifactStoreError
from churn_platform.storage.s3 import Access, split, store

NAME: Final = "s3"


def part(root: str, folder: Path) -> Part:
    """The bucket as a part of the stack.

    Args:
        root: s3://bucket/prefix.
        folder: of the stack.
    """
    return Part(
        name=NAME,
        title="S3",
        command=(),
        address=ARTIFACTS_VARIABLE,
        folder=folder,
        ready=lambda _: problem(root) is None,
    )


def require(root: str) -> None:
    """Make sure, before anything starts, that files can be kept below the root, and that it bears the platform's mark.

    Raises:
        StackError: the bucket, its region, the credentials or the way to the server are not as they should be.
    """
    try:
        store().check(root)
        claim(root)
    except ArtifactStoreError as error:
        raise StackError(error.problem, remedy=error.remedy) from error


def problem(root: str) -> str | None:
    """What is wrong with the bucket, the remedy first; None when nothing is."""
    try:
        store().check(root)
    except ArtifactStoreError as error:
        return str(error)
    return None


def environment() -> dict[str, str]:
    """What AWS's libraries look for in the environment, as the settings have it: `.env` is not read by them."""
    given = settings()
    wanted = {
        "AWS_ENDPOINT_URL_S3": given.aws_endpoint_url_s3,
        "AWS_DEFAULT_REGION": given.aws_default_region,
        "AWS_PROFILE": given.aws_profile,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def compute_logs(root: str, folder: Path) -> str:
    """The section of dagster.yaml by which Dagster keeps what steps print in the bucket.

    It holds no credential: Dagster finds them, the region and the server as every AWS library does.

    Args:
        root: s3://bucket/prefix.
        folder: for what running steps have printed so far, and what was fetched to be looked at.
    """
    bucket, prefix = split(join(root, COMPUTE_LOGS))
    config = {
        "bucket": bucket,
        "prefix": prefix,
        "local_dir": str(folder),
        "upload_extra_args": Access.from_settings(settings()).upload_arguments,
    }
    manager = {"module": "dagster_aws.s3.compute_log_manager", "class": "S3ComputeLogManager", "config": config}
    return f"\ncompute_logs: {json.dumps(manager, indent=2)}\n"  # JSON is YAML, whatever a name holds
