"""`churn backup`, `churn restore` and `churn recover` on real servers."""

import json
import stat
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import advisory_locks, alert_outbox, environments, retention_cases
from churn_platform.database.alert_outbox import Status
from churn_platform.local.environment import ARTIFACTS_VARIABLE, OWNER_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform_tests.commands.tree import KEYS
from churn_platform_tests.conftest import forget_settings

runner = CliRunner(env={"COLUMNS": "200"})


def run(*arguments: str, code: int = 0, typed: str | None = None) -> str:
    """Run a command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, list(arguments), input=typed)
    assert outcome.exit_code == code, outcome.output
    return outcome.output


@pytest.fixture
def place(stack: Stack, platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder. The platform's settings name an owner of the database, and artifacts in this folder."""
    name = str(conninfo_to_dict(platform)["dbname"])
    monkeypatch.setenv(OWNER_VARIABLE, make_conninfo(stack.owner_dsn, dbname=name))
    monkeypatch.setenv(ARTIFACTS_VARIABLE, str(tmp_path / "artifacts"))
    forget_settings()
    return tmp_path


@pytest.mark.slow
def test_a_backup_is_written_restored_and_recovered(
    platform: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = place / "artifacts" / "models" / "1" / "model.ubj"
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(b"a part of a bundle")
    with psycopg.connect(platform, autocommit=True) as connection:
        environments.identify(connection)
        alert_outbox.add(connection, kind="operator", reference="waits", payload={}, targets=["team"])
    backup = str(place / "backup")

    written = run("backup", backup)
    assert "churn restore" in written
    assert "MLflow's files are not in it" in written
    assert "is not empty" in run("backup", backup, code=ExitCode.FAILED)
    assert "Not a directory" in run("backup", str(bundle / "backup"), code=ExitCode.FAILED)
    with psycopg.connect(platform, autocommit=True) as connection:
        retention_cases.block_contact(connection, 15_600_001, reason="asked us not to call", actor="ana")
    bundle.unlink()
    assert "1 written" in run("restore", backup, "--files-only")
    assert bundle.read_bytes() == b"a part of a bundle"
    assert "holds data" in run("restore", backup, code=ExitCode.FAILED)
    word = f"{conninfo_to_dict(platform)['dbname']}@{conninfo_to_dict(platform)['host']}"
    assert "nothing was changed" in run("restore", backup, "--replace", code=ExitCode.CHECK_FAILED, typed="yes\n")
    with psycopg.connect(platform, application_name="a notebook"):
        assert "a notebook" in run("restore", backup, "--replace", code=ExitCode.IN_USE, typed=f"{word}\n")
    restored = json.loads(runner.invoke(app, ["restore", backup, "--replace", "--yes-replace", word, "--json"]).stdout)
    recovered = json.loads(runner.invoke(app, ["recover", "--json"]).stdout)

    assert capfd.readouterr().out == ""  # psql writes nothing into the JSON
    assert restored.keys() == set(KEYS["restore"])
    assert (restored["files_written"], restored["files_kept"]) == (0, 1)
    report = Path(restored["rolled_back"])
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert [each["added_by"] for each in json.loads(report.read_text())["blocked"]] == ["ana"]
    assert (recovered["lost"], recovered["published"], recovered["problems"]) == (0, 0, [])
    with psycopg.connect(platform, autocommit=True) as connection:
        assert alert_outbox.count(connection)[Status.IN_DOUBT] == 1
        assert connection.execute("select customer_id from do_not_contact").fetchall() == [(15_600_001,)]
    assert "agree; nothing was changed" in run("recover")
    with psycopg.connect(platform, autocommit=True) as live:
        advisory_locks.lock_stream(live, settings().topics.events)
        assert "no recovered predictions" in run("recover", "--report")


@pytest.mark.usefixtures("place")
def test_a_folder_without_a_backup_is_refused(tmp_path: Path) -> None:
    assert "is not a complete backup" in run("restore", str(tmp_path), code=ExitCode.FAILED)
    assert "--json requires" in run("restore", str(tmp_path), "--replace", "--json", code=ExitCode.USAGE)
