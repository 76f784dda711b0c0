"""Servers of the user as parts of the stack: checked when the stack starts, never started or stopped."""

from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from churn_platform.local import environment as env
from churn_platform.local import kafka, postgres
from churn_platform.local.part import Part, Problem
from churn_platform.settings import load_settings

HTTP_SECONDS = 2
TITLES = {"kafka": "Kafka", "postgres": "PostgreSQL", "mlflow": "MLflow"}


def part(name: str, addresses: Mapping[str, str], *, owner_dsn: str | None, folder: Path, deadline: float) -> Part:
    """Return a server of the user as a part without a command.

    Args:
        name: kafka, postgres or mlflow.
        addresses: addresses of the user's servers, by name.
        owner_dsn: connection string of the owner of the tables, if the user names one.
        folder: the stack's folder.
        deadline: seconds that the server may take to answer.
    """
    address = addresses[name]
    problems: dict[str, Callable[[], Problem | None]] = {
        "kafka": lambda: kafka.problem(load_settings().kafka_client | {"bootstrap.servers": address}),
        "postgres": lambda: _postgres_problem(address, owner_dsn),
        "mlflow": lambda: http_problem(f"{address.rstrip('/')}/health"),
    }
    return Part(
        name=name,
        title=TITLES[name],
        command=(),
        address=env.SERVERS[name],
        folder=folder,
        problem=problems[name],
        deadline=deadline,
        # Kafka holds the claims of all environments. They are read before anything in the user's database changes.
        needs=("kafka",) if name == "postgres" else (),
    )


def _postgres_problem(dsn: str, owner_dsn: str | None) -> Problem | None:
    found = postgres.problem(env.SERVERS["postgres"], dsn)
    if found is None and owner_dsn is not None:
        return postgres.problem(env.OWNER_VARIABLE, owner_dsn)
    return found


def http_problem(url: str) -> Problem | None:
    """Return why the URL does not answer with success; None if it does."""
    try:
        answer = httpx.get(url, timeout=HTTP_SECONDS, trust_env=False)
    except httpx.TransportError as error:
        return Problem(f"{url} does not answer: {error}.", lasting=False)
    if answer.is_success:
        return None
    return Problem(f"{url} answers with HTTP {answer.status_code}.", lasting=answer.is_client_error)
