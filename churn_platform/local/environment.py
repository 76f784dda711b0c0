"""What the processes of the stack, and a shell beside it, find in their environment."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from churn_platform.database.connections import IGNORED_VARIABLES
from churn_platform.files.s3 import Access
from churn_platform.local.errors import StackError
from churn_platform.local.java import JAVA_VARIABLES
from churn_platform.local.ports import HOST
from churn_platform.local.postgres import in_schema
from churn_platform.local.tracking import BACKEND_VARIABLE

STACK_MARKER = "CHURN_STACK"
"""In the environment of every process of a stack, and of nothing else: how left-over ones are found."""

EMBEDDED_MARKER = "CHURN_EMBEDDED"
"""Digests of the addresses that `churn up` wrote: how those are told from yours in a shell that read `.local/env`."""

OWNER_VARIABLE = "DATABASE_OWNER_URL"
"""Of the user: the login that owns the tables of his own PostgreSQL."""

READER_VARIABLE = "DATABASE_READER_URL"
"""In `.local/env`: the embedded PostgreSQL for a person or a dashboard, who only look."""

ARTIFACTS_VARIABLE = "CHURN_ARTIFACTS"
"""Of the user: where files go, a folder or a prefix in S3."""

S3_VARIABLES: Mapping[str, str] = {
    "endpoint": "AWS_ENDPOINT_URL_S3",
    "region": "AWS_DEFAULT_REGION",
    "profile": "AWS_PROFILE",
    "kms_key": "S3_KMS_KEY_ID",
}

FOREIGN_VARIABLES = frozenset(
    {
        "PYTHONDEVMODE",
        "PYTHONDONTWRITEBYTECODE",  # without bytecode every Dagster run starts seconds later
        "PYTHONINSPECT",
        "PYTHONIOENCODING",
        "PYTHONOPTIMIZE",
        "PYTHONSTARTUP",
        "PYTHONWARNINGS",  # "error" ends a server at the first deprecation
        "WEB_CONCURRENCY",  # uvicorn refuses to serve an application object with more than one worker
    }
)
"""Variables by which Python or uvicorn does something else than the stack's own commands say."""

MLFLOW_CHOICES = frozenset({"MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"})
"""Variables by which a training would write to another run, experiment or registry than the settings name."""

SERVERS: Mapping[str, str] = {
    "kafka": "KAFKA_BOOTSTRAP_SERVERS",
    "postgres": "DATABASE_URL",
    "mlflow": "MLFLOW_TRACKING_URI",
}


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:16]


def given_environment() -> dict[str, str]:
    """This process' environment."""
    return dict(os.environ)


def without_earlier_stack(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment less what a shell took from the `.local/env` of an earlier `churn up`."""
    ours = environment.get(EMBEDDED_MARKER, "").split()
    stale = {name for name in SERVERS.values() if f"{name}:{_digest(environment.get(name, ''))}" in ours}
    return {name: value for name, value in environment.items() if name not in stale | {EMBEDDED_MARKER, STACK_MARKER}}


def your_servers(environment: Mapping[str, str], env_file: Path) -> dict[str, str]:
    """Address of each server that the user runs himself, by part: from the environment, else from `.env`.

    Args:
        environment: without what an earlier stack left in it.
        env_file: the user's own `.env`.
    """
    found = {part: _given(variable, environment, env_file) for part, variable in SERVERS.items()}
    return {part: address for part, address in found.items() if address}


def your_artifacts(environment: Mapping[str, str], env_file: Path) -> str | None:
    """Where the user wants files to go, if he says so: a folder, or s3://bucket/prefix.

    Args:
        environment: goes first.
        env_file: the user's own `.env`.
    """
    return _given(ARTIFACTS_VARIABLE, environment, env_file)


def your_s3(environment: Mapping[str, str], env_file: Path) -> Access:
    """How the user's S3 server is reached.

    Args:
        environment: goes first.
        env_file: the user's own `.env`.
    """
    return Access(**{name: _given(variable, environment, env_file) for name, variable in S3_VARIABLES.items()})


def your_database_owner(environment: Mapping[str, str], env_file: Path) -> str | None:
    """Connection string of the owner of the tables in the user's own PostgreSQL, where he names one.

    Args:
        environment: goes first.
        env_file: the user's own `.env`.
    """
    return _given(OWNER_VARIABLE, environment, env_file)


def _given(variable: str, environment: Mapping[str, str], env_file: Path) -> str | None:
    from_file = {name.upper(): value for name, value in dotenv_values(env_file).items()}
    return environment.get(variable) or from_file.get(variable) or None


def shell_environment(*, local: Path, addresses: Mapping[str, str], embedded: set[str]) -> dict[str, str]:
    """What a shell needs to work with the stack, such as for a `dg dev` by hand.

    Args:
        local: the stack's folder.
        addresses: of Kafka, Postgres and MLflow, by part.
        embedded: the parts among them that are ours.
    """
    return {
        "CHURN_LOCAL": str(local),
        "DAGSTER_HOME": str(local / "dagster"),
        "DAGSTER_POSTGRES_URL": in_schema(addresses["postgres"], "dagster"),
        **{variable: addresses[part] for part, variable in SERVERS.items()},
        EMBEDDED_MARKER: " ".join(f"{SERVERS[part]}:{_digest(addresses[part])}" for part in sorted(embedded)),
    }


def _without_proxy(hosts: str) -> str:
    """Hosts that are reached without a proxy, this machine's own servers among them."""
    return ",".join(filter(None, (hosts, HOST)))


def _changes_servers(name: str, embedded: set[str]) -> bool:
    """Whether a variable, meant for something else, would change what the stack's processes do.

    Args:
        name: of the variable.
        embedded: the parts that are ours.
    """
    if name.startswith(("MLFLOW_", "_MLFLOW_")):
        # how to log in to an MLflow of the user's is his to say, and which of its runs is the active one is not
        return "mlflow" in embedded or name in MLFLOW_CHOICES
    # Dagster's commands take every one of their options from a variable: a port, a host, a prefix of paths
    return name in IGNORED_VARIABLES | JAVA_VARIABLES | FOREIGN_VARIABLES or name.startswith("DAGSTER_")


def process_environment(
    given: Mapping[str, str], *, local: Path, addresses: Mapping[str, str], embedded: set[str]
) -> dict[str, str]:
    """What every process of the stack finds.

    Args:
        given: the environment to build on.
        local: the stack's folder.
        addresses: of Kafka, Postgres and MLflow, by part.
        embedded: the parts among them that are ours.
    """
    ours = shell_environment(local=local, addresses=addresses, embedded=embedded)
    environment = {
        **{name: value for name, value in given.items() if not _changes_servers(name, embedded)},
        **ours,
        STACK_MARKER: str(local),
        BACKEND_VARIABLE: in_schema(addresses["postgres"], "mlflow"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",  # a log line is in the file when it happens
        "PYTHONUTF8": "1",  # files, logs and output are UTF-8 in every locale
        **{name: _without_proxy(given.get(name, "")) for name in ("NO_PROXY", "no_proxy")},
    }
    for other_login in (OWNER_VARIABLE, READER_VARIABLE):  # the platform's processes are writers and nothing else
        environment.pop(other_login, None)
    return environment


def require_same_for_all_readers(variables: Mapping[str, str]) -> None:
    """Refuse values that a shell and python-dotenv would read differently.

    Raises:
        StackError: a value holds such characters.
    """
    for name, value in variables.items():
        if "'" in value or "\\" in value or "${" in value or "\n" in value:
            raise StackError(
                f"{name} holds a quote, a backslash, a line break or '${{': shells and .env readers disagree on those.",
                remedy="Percent-encode it if it is in a URL; move the checkout (or CHURN_LOCAL) if it is in a path.",
            )


def write_env_file(file: Path, variables: Mapping[str, str]) -> None:
    """Write the variables so that a shell and python-dotenv read the same; for the owner's eyes only.

    Raises:
        StackError: a value holds characters that the two read differently.
    """
    require_same_for_all_readers(variables)
    lines = [
        "# Written by 'churn up'. For a shell: set -a; . .local/env; set +a",
        *(f"{name}='{value}'" for name, value in variables.items()),
    ]
    draft = file.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as writer:
        writer.write("\n".join(lines) + "\n")
    draft.replace(file)
