"""What a shell and the processes of the stack find in their environment."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from churn_platform.local.environment import (
    process_environment,
    shell_environment,
    without_earlier_stack,
    write_env_file,
    your_servers,
)
from churn_platform.local.errors import StackError

ADDRESSES = {
    "kafka": "127.0.0.1:9092",
    "postgres": "postgresql://churn:pass$word%40@127.0.0.1:5432/churn",
    "mlflow": "http://127.0.0.1:5001",
}
NO_ENV_FILE = Path(os.devnull)


def _shell(embedded: set[str]) -> dict[str, str]:
    return shell_environment(local=Path("/a path/.local"), addresses=ADDRESSES, embedded=embedded)


def test_a_shell_and_dotenv_read_the_same(tmp_path: Path) -> None:
    file = tmp_path / "env"
    variables = _shell(set(ADDRESSES))

    write_env_file(file, variables)

    shell = subprocess.run(
        ["/bin/sh", "-c", f"set -a; . '{file}'; env"], env={}, capture_output=True, text=True, check=True
    )
    from_shell = dict(line.split("=", 1) for line in shell.stdout.splitlines())
    assert variables.items() <= from_shell.items()
    assert dotenv_values(file) == variables


def test_only_its_owner_can_read_the_env_file(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("")
    file.chmod(0o644)

    write_env_file(file, _shell(set(ADDRESSES)))

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_value_that_readers_would_read_differently_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="CHURN_LOCAL"):
        write_env_file(tmp_path / "env", {"CHURN_LOCAL": "/home/o'neill/.local"})


def test_a_server_in_the_environment_is_the_users() -> None:
    assert your_servers({"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}, NO_ENV_FILE) == {"kafka": "kafka:9092"}


def test_a_server_in_dotenv_is_the_users_and_the_environment_takes_precedence(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("KAFKA_BOOTSTRAP_SERVERS=from-file:9092\nMLFLOW_TRACKING_URI=http://mlflow\nDATABASE_URL=\n")

    assert your_servers({"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}, file) == {
        "kafka": "kafka:9092",
        "mlflow": "http://mlflow",
    }


def test_what_a_shell_read_from_an_earlier_stack_is_not_the_users() -> None:
    shell = _shell({"kafka", "postgres"})

    assert your_servers(without_earlier_stack(shell), NO_ENV_FILE) == {"mlflow": ADDRESSES["mlflow"]}


def test_what_the_user_changed_after_reading_it_is_the_users() -> None:
    shell = _shell(set(ADDRESSES)) | {"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}

    assert your_servers(without_earlier_stack(shell), NO_ENV_FILE) == {"kafka": "kafka:9092"}


def test_processes_write_bytecode_and_carry_the_marker() -> None:
    local = Path("/a path/.local")

    environment = process_environment(
        {"PYTHONDONTWRITEBYTECODE": "1"}, local=local, addresses=ADDRESSES, embedded=set(ADDRESSES)
    )

    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["CHURN_STACK"] == str(local)
    assert environment["DAGSTER_POSTGRES_URL"] == ADDRESSES["postgres"] + "?options=-csearch_path%3Ddagster"
