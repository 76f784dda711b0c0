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
    """Run compose on the file with these variables in its `.env`, and without the variables of this process."""
    with tempfile.NamedTemporaryFile("w", suffix=".env") as env_file:
        env_file.write("".join(f"{name}='{value}'\n" for name, value in env.items()))
        env_file.flush()
        return subprocess.run(
            [
                *(str(COMPOSE), "--file", str(file), "--project-directory", str(PROJECT_ROOT)),
                *("--env-file", env_file.name, "--profile", "*", *arguments),
            ],
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
            capture_output=True,
            text=True,
            check=False,
        )


def services(env: Mapping[str, str] = SECRETS) -> dict[str, Service]:
    """Return all services, including those of profiles, by name."""
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
