"""docker-compose.yaml as compose reads it."""

import json
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from churn_platform.settings import PROJECT_ROOT

FILE = PROJECT_ROOT / "docker-compose.yaml"
COMPOSE = Path(sysconfig.get_path("scripts")) / "docker-compose"
SECRETS = {
    "POSTGRES_PASSWORD": "of-owner",
    "CHURN_PLATFORM_PASSWORD": "of-writer",
    "CHURN_ANALYST_PASSWORD": "of-reader",
    "CHURN_RETENTION_PASSWORD": "of-retention-team",
}


@dataclass(frozen=True)
class Service:
    """A service, with all variables replaced.

    Attributes:
        volumes: name of the volume or local path, by path in the container.
        definition: the whole definition, as compose prints it.
    """

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    health: tuple[str, ...]
    volumes: Mapping[str, str]
    needs: Mapping[str, str]
    definition: Mapping[str, Any]


def compose(*arguments: str, env: Mapping[str, str], file: Path = FILE) -> "subprocess.CompletedProcess[str]":
    """Run compose on the file with these variables in `.env` and none of this process' own.

    The project's folder is a temporary one, so that the `.env` of this checkout is not read. In the output it is this
    checkout.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, ".env").write_text("".join(f"{name}='{value}'\n" for name, value in env.items()))
        outcome = subprocess.run(
            [
                *(str(COMPOSE), "--file", str(file), "--project-directory", folder),
                *("--profile", "*", *arguments),
            ],
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
            capture_output=True,
            text=True,
            check=False,
        )
    outcome.stdout = outcome.stdout.replace(folder, str(PROJECT_ROOT))
    return outcome


def services(env: Mapping[str, str] = SECRETS) -> dict[str, Service]:
    """Return every service by name, including those of profiles."""
    outcome = compose("config", "--format", "json", env=env)
    assert outcome.returncode == 0, outcome.stderr
    return {name: _service(name, definition) for name, definition in json.loads(outcome.stdout)["services"].items()}


def _service(name: str, definition: Mapping[str, Any]) -> Service:
    environment = {key: value for key, value in (definition.get("environment") or {}).items() if value is not None}
    test: Sequence[str] = definition.get("healthcheck", {}).get("test", [])
    return Service(
        name=name,
        image=definition["image"],
        command=tuple(definition.get("command") or ()),
        environment=environment,
        health=tuple(test[1:]),
        volumes={each["target"]: each["source"] for each in definition.get("volumes", [])},
        needs={needed: how["condition"] for needed, how in definition.get("depends_on", {}).items()},
        definition=definition,
    )
