"""The MLflow tracking server on localhost."""

import sys

from churn_platform.deployment.web import answers
from churn_platform.local.part import Part
from churn_platform.local.ports import HOST
from churn_platform.settings import PROJECT_ROOT

BACKEND_VARIABLE = "MLFLOW_BACKEND_STORE_URI"


def part(*, artifacts: str, port: int, needs: tuple[str, ...]) -> Part:
    """The server; its database comes from MLFLOW_BACKEND_STORE_URI.

    Args:
        artifacts: folder or s3:// prefix of the files that it serves.
        port: where it listens.
        needs: parts that must be complete first.
    """
    command = (
        *(sys.executable, "-m", "churn_platform.deployment.mlflow_server", str(port)),
        *("--artifacts", artifacts),
    )
    return Part(
        name="mlflow",
        title="MLflow",
        command=command,
        address=f"http://{HOST}:{port}",
        folder=PROJECT_ROOT,
        ready=lambda _: answers(f"http://{HOST}:{port}/health"),
        listens_at=(port,),
        needs=needs,
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # jobs on LLM traces: nothing here asks for one
        stop_stage=2,
    )
