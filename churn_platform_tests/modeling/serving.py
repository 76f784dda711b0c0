"""A model served by `mlflow models serve`, for tests that send it rows over HTTP."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from churn_platform_tests.waiting import wait_until

HOST = "127.0.0.1"


@contextmanager
def served_model(model_uri: str, *, programs: Path, environment: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Serve a model and yield a client of its server.

    Args:
        model_uri: address of the model in MLflow.
        programs: folder of the `mlflow` program, such as the `bin` of a virtual environment.
        environment: variables of the server, beyond those of this process.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *(str(programs / "mlflow"), "models", "serve", "--env-manager", "local", "--model-uri", model_uri),
            *("--host", HOST, "--port", str(port)),
        ],
        # The path is that of an active virtual environment: MLflow starts the server's program by its name.
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30, trust_env=False) as client:

            def answers() -> bool:
                try:
                    return client.get("/ping").is_success
                except httpx.TransportError:
                    return False

            wait_until(answers, 90, "the model's server to answer")
            yield client
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the whole group: the server starts workers
        server.wait(30)


def served_scores(client: httpx.Client, rows: pd.DataFrame) -> NDArray[np.float32]:
    """Return P(churn) of these rows from the server, shape (n,)."""
    request = {"dataframe_split": json.loads(rows.to_json(orient="split", index=False))}
    answer = client.post("/invocations", json=request).raise_for_status().json()
    return np.array([row["probability"] for row in answer["predictions"]], np.float64).astype(np.float32)
