"""The stack starts and works with any environment variables and in any folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from mlflow import MlflowClient

from churn_platform.local.errors import StackError
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.stack import Stack
from churn_platform.local.supervision import left_over, runtime_folder
from churn_platform.settings import PROJECT_ROOT

pytestmark = pytest.mark.timeout(300)

OTHERS = {
    "PGOPTIONS": "-cdatestyle=German -cdefault_transaction_read_only=on",
    "PGDATESTYLE": "German",
    "PGTZ": "Asia/Tokyo",
    "PGSERVICE": "nowhere",
    "PGPORT": "1",
    "PGSSLMODE": "require",
    "_JAVA_OPTIONS": "-Xmx1k",
    "JAVA_TOOL_OPTIONS": "-Xmx1k",
    "KAFKA_OPTS": "-Xmx1k",
    "KAFKA_HEAP_OPTS": "-Xmx1k",
    "LOG_DIR": "/nowhere",
    "WEB_CONCURRENCY": "4",
    "PYTHONIOENCODING": "ascii",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "LC_ALL": "C",
    "NO_COLOR": "1",
    "COLUMNS": "20",
    "DAGSTER_GRPC_PORT": "1",
    "DAGSTER_GRPC_HOST": "nowhere.invalid",
    "DAGSTER_LOCATION_NAME": "elsewhere",
    "DAGSTER_WEBSERVER_PORT": "1",
    "DAGSTER_WEBSERVER_PATH_PREFIX": "/elsewhere",
    "DAGSTER_WEBSERVER_READ_ONLY": "1",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NoSuchPool",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "nowhere.invalid",
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "HTTP_PROXY": "http://nowhere.invalid:1",
    "http_proxy": "http://nowhere.invalid:1",
}
"""Variables that other programs on the machine may need."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can traverse, because as root PostgreSQL runs as another user."""
    folder = Path(tempfile.mkdtemp(prefix="churn-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def keeps_artifacts(stack: Stack, folder: Path) -> bool:
    """Return whether the stack's MLflow stores a file and returns it."""
    client = MlflowClient(stack.addresses["mlflow"])
    run = client.create_run(client.create_experiment("surroundings"))
    client.log_text(run.info.run_id, "kept", "note.txt")
    return Path(client.download_artifacts(run.info.run_id, "note.txt", str(folder))).read_text() == "kept"


@pytest.mark.slow
def test_variables_meant_for_others_change_nothing(
    embedded_only: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGOPTIONS", "PGDATESTYLE", "_JAVA_OPTIONS", "LC_ALL"):
        monkeypatch.setenv(name, OTHERS[name])  # servers are prepared in this process' environment
    mine = Stack(folder / "local", usual_ports=ANY_FREE_PORTS, given=embedded_only | OTHERS, env_file=Path(os.devnull))
    with mine:
        assert {part.name: part.state for part in mine.status()} == dict.fromkeys(
            ("kafka", "postgres", "mlflow", "code", "webserver", "daemon", "worker"), "ready"
        )
        for name in ("PGOPTIONS", "PGDATESTYLE"):
            monkeypatch.delenv(name, raising=False)
        with psycopg.connect(mine.owner_dsn) as connection:  # as a dashboard does
            assert connection.execute("show datestyle").fetchone() == ("ISO, MDY",)
            assert connection.execute("show timezone").fetchone() == ("UTC",)
        assert keeps_artifacts(mine, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a,b c", "50% é=:x", "a#b;c", "a?b&c[d]{e}", 'a"b', "$HOME ~ !`a`"])
def test_a_folder_of_any_name_holds_all_that_its_stack_writes(
    name: str, embedded_only: dict[str, str], folder: Path
) -> None:
    before = set(PROJECT_ROOT.iterdir()), set(folder.iterdir())
    local = folder / name
    mine = Stack(local, services_only=True, usual_ports=ANY_FREE_PORTS, given=embedded_only, env_file=Path(os.devnull))
    try:
        with mine:
            assert keeps_artifacts(mine, local)
            assert (local / "kafka" / "data" / "meta.properties").exists()
            assert list((local / "mlflow" / "artifacts").rglob("note.txt"))
            with psycopg.connect(mine.owner_dsn) as connection:
                assert connection.execute("show data_directory").fetchone() == (str(local / "postgres"),)
    finally:
        if runtime_folder(local) != local / "run":
            shutil.rmtree(runtime_folder(local))
    assert (set(PROJECT_ROOT.iterdir()), set(folder.iterdir()) - {local}) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["o'neill", "a\\b", "a${b}", "a\nb", "a #b", "a ;b"])
def test_a_folder_whose_name_some_reader_would_misread_is_refused_before_anything_starts(
    name: str, embedded_only: dict[str, str], folder: Path
) -> None:
    mine = Stack(
        folder / name, services_only=True, usual_ports=ANY_FREE_PORTS, given=embedded_only, env_file=Path(os.devnull)
    )

    with pytest.raises(StackError, match="CHURN_LOCAL"):
        mine.start()

    assert not left_over(mine.local)
    assert not mine.is_up
    shutil.rmtree(runtime_folder(mine.local))
