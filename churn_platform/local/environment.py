"""Environment variables of the stack's processes and of a shell that uses the stack."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from churn_platform.database.connections import IGNORED_VARIABLES
from churn_platform.deployment.variables import DAGSTER_DATABASE_VARIABLE, MLFLOW_DATABASE_VARIABLE
from churn_platform.files.s3 import Access
from churn_platform.local.errors import StackError
from churn_platform.local.java import JAVA_VARIABLES
from churn_platform.local.ports import HOST
from churn_platform.local.postgres import in_schema
from churn_platform.secret_sources import FILE_SUFFIX
from churn_platform.settings import resolve_secrets, secret_variables

STACK_MARKER = "CHURN_STACK"
"""Set for every process of a stack and for nothing else. It identifies processes that were left behind."""

EMBEDDED_MARKER = "CHURN_EMBEDDED"
"""Digests of the addresses that `churn up` wrote. They tell a shell that read `.local/env` from one that
names servers of the user."""

OWNER_VARIABLE = "DATABASE_OWNER_URL"
"""Set by the user: the login that owns the tables in the user's own PostgreSQL."""

READER_VARIABLE = "DATABASE_READER_URL"
"""In `.local/env`: a read-only login of the embedded PostgreSQL, for people and dashboards."""

RETENTION_VARIABLE = "DATABASE_RETENTION_URL"
"""In `.local/env`: the retention team's login of the embedded PostgreSQL."""

ARTIFACTS_VARIABLE = "CHURN_ARTIFACTS"
"""Set by the user: where files go, a folder or an S3 prefix."""

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
"""Variables that change what Python or uvicorn does, regardless of the stack's own commands."""

MLFLOW_CHOICES = frozenset({"MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"})
"""Variables that would make a training write to a run, experiment or registry that the settings do not name."""

SERVERS: Mapping[str, str] = {
    "kafka": "KAFKA_BOOTSTRAP_SERVERS",
    "postgres": "DATABASE_URL",
    "mlflow": "MLFLOW_TRACKING_URI",
}


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:16]


def given_environment() -> dict[str, str]:
    """Return this process' environment."""
    return dict(os.environ)


def without_earlier_stack(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what a shell read from the `.local/env` of an earlier `churn up`."""
    ours = environment.get(EMBEDDED_MARKER, "").split()
    stale = {name for name in SERVERS.values() if f"{name}:{_digest(environment.get(name, ''))}" in ours}
    return {name: value for name, value in environment.items() if name not in stale | {EMBEDDED_MARKER, STACK_MARKER}}


def your_servers(environment: Mapping[str, str], env_file: Path) -> dict[str, str]:
    """Return the address of each server of the user, by part: from the environment, else from `.env`.

    Args:
        environment: without the variables of an earlier stack.
        env_file: the user's `.env`.

    Raises:
        SettingsError: a secret cannot be read from the file or the service that it is in.
    """
    found = {part: _given(variable, environment, env_file) for part, variable in SERVERS.items()}
    return {part: address for part, address in found.items() if address}


def your_artifacts(environment: Mapping[str, str], env_file: Path) -> str | None:
    """Return where the user wants files to go: a folder or s3://bucket/prefix; None if nothing is set.

    Args:
        environment: takes precedence.
        env_file: the user's `.env`.
    """
    return _given(ARTIFACTS_VARIABLE, environment, env_file)


def your_s3(environment: Mapping[str, str], env_file: Path) -> Access:
    """Return how to reach the user's S3 server.

    Args:
        environment: takes precedence.
        env_file: the user's `.env`.
    """
    return Access(**{name: _given(variable, environment, env_file) for name, variable in S3_VARIABLES.items()})


def your_database_owner(environment: Mapping[str, str], env_file: Path) -> str | None:
    """Return the connection string of the owner of the tables in the user's own PostgreSQL; None if none is set.

    Args:
        environment: takes precedence.
        env_file: the user's `.env`.

    Raises:
        SettingsError: it cannot be read from the file or the service that it is in.
    """
    return _given(OWNER_VARIABLE, environment, env_file)


def _given(variable: str, environment: Mapping[str, str], env_file: Path) -> str | None:
    """Return a value, which may be in a file or in AWS Secrets Manager if it is a secret.

    Raises:
        SettingsError: a secret cannot be read.
    """
    from_file = {name.upper(): value for name, value in dotenv_values(env_file).items() if value}
    from_environment = {name: value for name, value in environment.items() if value}
    sources = {str(env_file): from_file, "the environment": from_environment}
    return resolve_secrets(sources, only={variable} & set(secret_variables())).get(variable)


def shell_environment(*, local: Path, addresses: Mapping[str, str], embedded: set[str]) -> dict[str, str]:
    """Return the variables of a shell that works with the stack, for example to run `dg dev`.

    Args:
        local: the stack's folder.
        addresses: of Kafka, Postgres and MLflow, by part.
        embedded: the parts among them that are embedded.
    """
    return {
        "CHURN_LOCAL": str(local),
        "DAGSTER_HOME": str(local / "dagster"),
        DAGSTER_DATABASE_VARIABLE: in_schema(addresses["postgres"], "dagster"),
        DAGSTER_DATABASE_VARIABLE + FILE_SUFFIX: "",  # as below
        **{variable: addresses[part] for part, variable in SERVERS.items()},
        # An empty value counts as not set. The shell may name a file with the value of DATABASE_URL, too.
        **({} if "postgres" in embedded else {SERVERS["postgres"] + FILE_SUFFIX: ""}),
        EMBEDDED_MARKER: " ".join(f"{SERVERS[part]}:{_digest(addresses[part])}" for part in sorted(embedded)),
    }


def _without_proxy(hosts: str) -> str:
    """Return the hosts to reach without a proxy, with this machine among them."""
    return ",".join(filter(None, (hosts, HOST)))


def _changes_servers(name: str, embedded: set[str]) -> bool:
    """Return whether a variable that is meant for another program would change what the stack's processes do.

    Args:
        name: of the variable.
        embedded: the parts that are embedded.
    """
    if name.startswith(("MLFLOW_", "_MLFLOW_")):
        # The user's own MLflow needs the variables with credentials, but not those that choose a run.
        return "mlflow" in embedded or name in MLFLOW_CHOICES
    # Dagster's commands read each of their options from a variable too: port, host, path prefix.
    return name in IGNORED_VARIABLES | JAVA_VARIABLES | FOREIGN_VARIABLES or name.startswith("DAGSTER_")


def process_environment(
    given: Mapping[str, str], *, local: Path, addresses: Mapping[str, str], embedded: set[str]
) -> dict[str, str]:
    """Return the variables of every process of the stack.

    Args:
        given: the environment to build on.
        local: the stack's folder.
        addresses: of Kafka, Postgres and MLflow, by part.
        embedded: the parts among them that are embedded.
    """
    ours = shell_environment(local=local, addresses=addresses, embedded=embedded)
    environment = {
        **{name: value for name, value in given.items() if not _changes_servers(name, embedded)},
        **ours,
        STACK_MARKER: str(local),
        MLFLOW_DATABASE_VARIABLE: in_schema(addresses["postgres"], "mlflow"),
        MLFLOW_DATABASE_VARIABLE + FILE_SUFFIX: "",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",  # so that no buffer delays log lines
        "PYTHONUTF8": "1",  # so that files, logs and output are UTF-8 in every locale
        **{name: _without_proxy(given.get(name, "")) for name in ("NO_PROXY", "no_proxy")},
    }
    for other_login in (
        OWNER_VARIABLE,
        READER_VARIABLE,
        RETENTION_VARIABLE,
    ):  # the platform's processes use only the writer's login
        environment.pop(other_login, None)
        environment.pop(other_login + FILE_SUFFIX, None)
    return environment


def require_same_for_all_readers(variables: Mapping[str, str]) -> None:
    """Check that a shell and python-dotenv read the same values.

    Raises:
        StackError: a value contains characters that they read differently.
    """
    for name, value in variables.items():
        if "'" in value or "\\" in value or "${" in value or "\n" in value:
            raise StackError(
                f"{name} contains a quote, a backslash, a line break or '${{'. Shells and .env readers differ on it.",
                remedy="Percent-encode it if it is in a URL; move the checkout (or CHURN_LOCAL) if it is in a path.",
            )


def write_env_file(file: Path, variables: Mapping[str, str]) -> None:
    """Write the variables so that a shell and python-dotenv read the same. Only the owner can read the file.

    Raises:
        StackError: a value contains characters that the two read differently.
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
