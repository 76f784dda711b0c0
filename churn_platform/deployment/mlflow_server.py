"""MLflow's own server application in one process.

`mlflow server` imports MLflow twice: in a parent process that stays, and in its worker. This takes 270 MB more memory
and twice as long to start. This module does the same without the parent.
"""

import json
import os
from typing import Annotated

import typer
import uvicorn
from mlflow.environment_variables import MLFLOW_S3_UPLOAD_EXTRA_ARGS
from mlflow.server import constants
from mlflow.server.fastapi_app import app
from mlflow.server.handlers import initialize_backend_stores

from churn_platform.database.connections import pinned_url
from churn_platform.deployment.variables import MLFLOW_DATABASE_VARIABLE
from churn_platform.files.s3 import Access
from churn_platform.settings import load_secret, load_settings

ARTIFACT_ROOT = "mlflow-artifacts:/"
"""Clients send artifacts to the server and never see where it stores them."""


def serve(
    port: int,
    artifacts: Annotated[str, typer.Option(help="Folder or s3:// prefix of the artifacts.")],
    host: Annotated[str, typer.Option(help="Address to listen on: 0.0.0.0 in a container.")] = "127.0.0.1",
) -> None:
    """Migrate the tables in the database of MLFLOW_BACKEND_STORE_URI, then serve."""
    backend = pinned_url(load_secret(MLFLOW_DATABASE_VARIABLE))
    os.environ.update(
        {
            constants.BACKEND_STORE_URI_ENV_VAR: backend,
            constants.REGISTRY_STORE_URI_ENV_VAR: backend,
            constants.ARTIFACT_ROOT_ENV_VAR: ARTIFACT_ROOT,
            constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
            MLFLOW_S3_UPLOAD_EXTRA_ARGS.name: json.dumps(Access.from_settings(load_settings()).upload_arguments),
        }
    )
    initialize_backend_stores(backend, backend, ARTIFACT_ROOT)
    uvicorn.run(app, host=host, port=port, access_log=False)


if __name__ == "__main__":
    typer.run(serve)
