"""DAGSTER_HOME: its `dagster.yaml` and `workspace.yaml`, for a container and for the embedded servers."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from churn_platform.files.artifacts import COMPUTE_LOGS, in_s3, join
from churn_platform.files.s3 import Access, split
from churn_platform.settings import PROJECT_ROOT

WORKSPACE = "workspace.yaml"
LOCATION = "churn_platform"
RUN_PROCESS = "churn-run"  # the name of the process of a run that was forked, which `ps -o comm` shows

# A further lane has a live run and a standby. Without room for them in the queue, metrics and training would wait.
CONCURRENT_RUNS = re.compile(r"^(  *max_concurrent_runs: )(\d+)", re.MULTILINE)
# The storage itself reads DAGSTER_POSTGRES_URL, because Dagster's `env` knows no file and no Secrets Manager.
STORAGE = """
storage:
  custom:
    module: churn_platform.orchestration.instance_storage
    class: PooledPostgresStorage
    config: {}
"""


def write_dagster_home(
    folder: Path, *, code_server: Mapping[str, str | int], artifacts_root: str, s3_access: Access, lanes: int
) -> None:
    """Write `dagster.yaml` (the repository's, with storage in PostgreSQL) and the workspace of the code server.

    Args:
        folder: DAGSTER_HOME; created if it is missing.
        code_server: its address, with the keys of a workspace file: `socket`, or `host` and `port`.
        artifacts_root: a folder or an s3:// prefix. Compute logs go to S3 if it is a prefix, else to DAGSTER_HOME.
        s3_access: how S3 encrypts uploads.
        lanes: number of streaming runs at the same time; each may have a standby.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    given = (PROJECT_ROOT / "dagster.yaml").read_text(encoding="utf-8")
    configuration = CONCURRENT_RUNS.sub(lambda found: f"{found[1]}{int(found[2]) + 2 * (lanes - 1)}", given) + STORAGE
    if in_s3(artifacts_root):
        configuration += _compute_logs_in_s3(artifacts_root, s3_access, folder / "storage")
    (folder / "dagster.yaml").write_text(configuration, encoding="utf-8")
    server = {"grpc_server": {**code_server, "location_name": LOCATION}}
    # JSON is valid YAML and quotes any path correctly.
    (folder / WORKSPACE).write_text(json.dumps({"load_from": [server]}, indent=2), encoding="utf-8")


def _compute_logs_in_s3(artifacts_root: str, access: Access, folder: Path) -> str:
    """Return the section of `dagster.yaml` that stores the output of steps in the bucket.

    It holds no credential. Dagster finds credentials, region and endpoint as every AWS library does.

    Args:
        artifacts_root: s3://bucket/prefix.
        access: how S3 encrypts uploads.
        folder: local copies of logs that are being written or were downloaded.
    """
    bucket, prefix = split(join(artifacts_root, COMPUTE_LOGS))
    config = {
        "bucket": bucket,
        "prefix": prefix,
        "local_dir": str(folder),
        "upload_extra_args": access.upload_arguments,
    }
    manager = {"module": "dagster_aws.s3.compute_log_manager", "class": "S3ComputeLogManager", "config": config}
    return f"\ncompute_logs: {json.dumps(manager, indent=2)}\n"  # JSON is valid YAML and quotes any name correctly
