"""run_local.sh with a fake container engine, which records its arguments and returns prepared answers."""

import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.image.compose import SECRETS

ENGINE = """#!/bin/sh
echo "$*" >> "$NOTES/commands"
env | grep -E '_SCALE=|_URL=|_URI=|CHURN_ENVIRONMENT_NAME=' | sort > "$NOTES/given"
case "$*" in
    "image inspect"*) [ -f "$NOTES/image" ] && cat "$NOTES/image" ;;
    "volume inspect"*) [ -f "$NOTES/volume" ] ;;
    "compose run --rm prepare") [ ! -f "$NOTES/refuses" ] || { cat "$NOTES/refuses" >&2; exit 1; } ;;
    "compose --profile train run --rm train") [ ! -f "$NOTES/untrainable" ] ;;
    "compose port webserver 3000") echo 127.0.0.1:3000 ;;
    "compose port dashboard 8050") echo 127.0.0.1:8050 ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A folder with run_local.sh and the records of the fake engine."""

    folder: Path

    def run(self, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run the script."""
        for name in ("commands", "given"):
            (self.folder / name).unlink(missing_ok=True)
        return subprocess.run(
            [str(self.folder / "run_local.sh"), *options],
            env={"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "NOTES": str(self.folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def note(self, name: str, text: str = "") -> None:
        """Prepare an answer of the engine."""
        (self.folder / name).write_text(text)

    @property
    def commands(self) -> list[str]:
        """The commands that would have changed something."""
        lines = (self.folder / "commands").read_text().splitlines()
        return [line for line in lines if re.match("compose (build|run|up)", line)]

    @property
    def given(self) -> dict[str, str]:
        """The variables that compose received."""
        return dict(line.split("=", 1) for line in (self.folder / "given").read_text().splitlines())

    @property
    def env_file(self) -> Path:
        """The `.env` file of the checkout."""
        return self.folder / ".env"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout without an image and without passwords."""
    shutil.copy(PROJECT_ROOT / "run_local.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    engine = tmp_path / "bin" / "docker"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    return Checkout(tmp_path)


def test_the_first_run_generates_passwords_and_builds_the_image(checkout: Checkout) -> None:
    outcome = checkout.run()

    assert outcome.returncode == 0, outcome.stderr
    assert checkout.commands == ["compose build prepare", "compose run --rm prepare", "compose up --detach"]
    assert stat.S_IMODE(checkout.env_file.stat().st_mode) == 0o600
    made = dict(line.split("=") for line in checkout.env_file.read_text().splitlines())
    assert set(made) == set(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{48}", password) for password in made.values())
    assert len(set(made.values())) == len(made)
    assert "Dashboard  http://127.0.0.1:8050\n" in outcome.stdout
    assert not [password for password in made.values() if password in outcome.stdout + outcome.stderr]


def test_the_next_run_reuses_them_and_reports_it(checkout: Checkout) -> None:
    checkout.run()
    made = checkout.env_file.read_text()
    checkout.note("image", "abc123\n")

    outcome = checkout.run()

    assert checkout.commands == ["compose run --rm prepare", "compose up --detach"]
    assert "Reused the passwords in .env." in outcome.stdout
    assert "Reused the image churn-platform:local, built from abc123." in outcome.stdout
    assert checkout.env_file.read_text() == made


def test_a_rebuild_can_be_forced(checkout: Checkout) -> None:
    checkout.note("image", "abc123\n")

    checkout.run("--force-rebuild")

    assert checkout.commands[0] == "compose build --no-cache --pull prepare"


def test_a_first_model_is_trained_on_request(checkout: Checkout) -> None:
    assert "./run_local.sh --train" in checkout.run().stdout

    outcome = checkout.run("--train")

    assert outcome.returncode == 0, outcome.stderr
    assert (checkout.folder / "commands").read_text().splitlines()[-1] == "compose --profile train run --rm train"


def test_a_model_that_cannot_be_trained_is_reported(checkout: Checkout) -> None:
    checkout.note("untrainable")

    outcome = checkout.run("--train")

    assert outcome.returncode == 1
    assert "No model was trained" in outcome.stderr


def test_passwords_set_by_the_user_are_kept(checkout: Checkout) -> None:
    checkout.env_file.write_text("BATCH_SECONDS=5\nPOSTGRES_PASSWORD='mine'")  # without a line break at its end

    assert checkout.run(CHURN_ANALYST_PASSWORD="of-the-shell").returncode == 0  # noqa: S106  nobody's

    lines = checkout.env_file.read_text().splitlines()
    assert lines[:2] == ["BATCH_SECONDS=5", "POSTGRES_PASSWORD='mine'"]
    assert [line.split("=")[0] for line in lines[2:]] == ["CHURN_PLATFORM_PASSWORD", "CHURN_RETENTION_PASSWORD"]


def test_a_database_whose_passwords_are_lost_gets_no_new_ones(checkout: Checkout) -> None:
    checkout.note("volume")

    outcome = checkout.run()

    assert outcome.returncode == 1
    assert "POSTGRES_PASSWORD" in outcome.stderr
    assert not checkout.env_file.exists()


def test_a_failed_preparation_starts_nothing_and_shows_the_reason(checkout: Checkout) -> None:
    checkout.note("refuses", "'elsewhere' uses the database 'churn'")

    outcome = checkout.run()

    assert outcome.returncode == 1
    assert "'elsewhere' uses the database 'churn'" in outcome.stderr
    assert "compose up --detach" not in checkout.commands


def test_external_servers_replace_containers(checkout: Checkout) -> None:
    checkout.env_file.write_text("DATABASE_URL=postgresql://me:pw@db.example/churn?sslmode=require\n")

    outcome = checkout.run(KAFKA_BOOTSTRAP_SERVERS="kafka.example:9092")

    assert outcome.returncode == 0, outcome.stderr
    given = checkout.given
    assert (given["POSTGRES_SCALE"], given["KAFKA_SCALE"], given.get("MLFLOW_SCALE")) == ("0", "0", None)
    database = "postgresql://me:pw@db.example/churn?sslmode=require&options=-csearch_path%3D"
    assert given["DAGSTER_POSTGRES_URL"] == f"{database}dagster"
    assert given["MLFLOW_BACKEND_STORE_URI"] == f"{database}mlflow"
    assert str(checkout.folder) in given["CHURN_ENVIRONMENT_NAME"]


def test_without_an_engine_the_error_names_the_alternative(checkout: Checkout) -> None:
    (checkout.folder / "bin" / "docker").write_text('#!/bin/sh\n[ "$1" = compose ]\n')

    outcome = checkout.run()

    assert outcome.returncode == 1
    assert "The Docker engine does not answer." in outcome.stderr


def test_an_unknown_option_is_rejected(checkout: Checkout) -> None:
    outcome = checkout.run("--fast")

    assert outcome.returncode == 1
    assert "--force-rebuild" in outcome.stderr
