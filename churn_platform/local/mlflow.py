"""The MLflow tracking server on localhost."""

import sys

from churn_platform.deployment.health import http_server_answers
from churn_platform.local.part import Part
from churn_platform.local.ports import HOST
from churn_platform.settings import PROJECT_ROOT


def part(*, artifacts: str, port: int, needs: tuple[str, ...]) -> Part:
    """Return the server. Its database comes from MLFLOW_BACKEND_STORE_URI.

    Args:
        artifacts: folder or s3:// prefix of the files that it serves.
        port: where it listens.
        needs: parts that must be complete first.
    """
    return Part(
        name="mlflow",
        title="MLflow",
        command=(
            *(sys.executable, "-m", "churn_platform.deployment.mlflow_server", str(port)),
            *("--artifacts", artifacts),
        ),
        address=f"http://{HOST}:{port}",
        folder=PROJECT_ROOT,
        ready=lambda _: http_server_answers(f"http://{HOST}:{port}/health"),
        listens_at=(port,),
        needs=needs,
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # its jobs evaluate LLM traces; there are none
        stop_stage=2,
    )
