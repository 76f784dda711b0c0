"""Another process that listens at the address of an embedded server is never used instead of it."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.local.errors import PortTakenError
from churn_platform.local.ports import ANY_FREE_PORTS, HOST
from churn_platform.local.progress import Phase, Step
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform_tests.local.strangers import stranger
from churn_platform_tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
runner = CliRunner(env={"COLUMNS": "300"})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can traverse, because as root PostgreSQL runs as another user."""
    folder = Path(tempfile.mkdtemp(prefix="churn-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def other(folder: Path) -> Path:
    """A folder for the other server."""
    other = folder / "other"
    other.mkdir()
    other.chmod(0o711)
    return other


def sandbox(folder: Path, given: dict[str, str], stack: Stack, database: str, *ours: str) -> Stack:
    """Return a separate stack of these parts. Its other servers are the session's, configured as the user's own.

    Args:
        database: of the `platform` fixture, which also names topics and a group that nobody else uses.
    """
    variables = {"kafka": "KAFKA_BOOTSTRAP_SERVERS", "postgres": "DATABASE_URL", "mlflow": "MLFLOW_TRACKING_URI"}
    url = urlsplit(stack.addresses["postgres"])._replace(path=f"/{conninfo_to_dict(database)['dbname']}").geturl()
    addresses = {**stack.addresses, "postgres": url}
    yours = {variable: addresses[name] for name, variable in variables.items() if name not in ours}
    yours["CHURN_ENVIRONMENT_NAME"] = settings().platform.environment_name  # the name of this process, which starts it
    yours |= {variable: os.environ[variable] for variable in ("EVENTS_TOPIC", "PREDICTIONS_TOPIC", "STREAM_GROUP")}
    return Stack(
        folder / "local",
        services_only="webserver" not in ours,
        usual_ports=ANY_FREE_PORTS,
        given=given | yours,
        env_file=Path(os.devnull),
    )


def port_of(stack: Stack, name: str) -> int:
    """Return the port of a part."""
    address = stack.addresses["dagster" if name == "webserver" else name]
    return int(address.partition("?")[0].removesuffix("/churn").rpartition(":")[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kafka", "postgres", "mlflow"])
def test_a_server_whose_port_another_has_taken_is_not_ready(name: str, stack: Stack, other: Path) -> None:
    stack.stop_part(name)

    with stranger(name, port_of(stack, name), other) as listening:
        with pytest.raises(PortTakenError, match=f"process {listening()} ") as refused:
            stack.start_part(name)
        assert not stack.is_ready(name)
        with pytest.raises(PortTakenError, match=str(listening())):
            stack.require_own_servers()
        outcome = runner.invoke(app, ["status", "--json"])
        produced = runner.invoke(app, ["produce", "--count", "1"])

    assert produced.exit_code == ExitCode.FAILED
    assert refused.value.problem in produced.output.replace("\n", " ")
    assert str(port_of(stack, name)) in refused.value.problem
    assert outcome.exit_code == ExitCode.CHECK_FAILED
    (part,) = (part for part in json.loads(outcome.stdout)["servers"] if part["name"] == name)
    assert part["state"] == "port taken"
    assert part["problem"] == refused.value.problem
    stack.stop_part(name)  # supervisord has stopped restarting it, or will
    stack.start_part(name)
    assert stack.is_ready(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kafka", "postgres", "mlflow", "webserver"])
def test_a_port_that_another_process_takes_before_ours_listens_is_replaced_by_a_free_one(
    name: str, embedded_only: dict[str, str], stack: Stack, platform: str, folder: Path, other: Path
) -> None:
    mine = sandbox(folder, embedded_only, stack, platform, name)
    taken: list[int] = []
    steps: list[Step] = []

    with ExitStack() as strangers:

        def take_the_port(step: Step) -> None:
            steps.append(step)
            if step.part == name and step.phase is Phase.STARTING and not taken:
                taken.append(port_of(mine, name))
                strangers.enter_context(stranger(name, taken[0], other))

        try:
            mine.start(take_the_port)

            assert port_of(mine, name) != taken[0]
            assert mine.is_ready(name)
            assert [
                step
                for step in steps
                if step.detail.startswith("choosing another port: ") and str(taken[0]) in step.detail
            ]
            assert str(taken[0]) not in (mine.local / "env").read_text()
        finally:
            mine.stop()


@pytest.mark.slow
def test_an_address_that_outlived_its_server_is_not_trusted(
    embedded_only: dict[str, str],
    stack: Stack,
    platform: str,
    folder: Path,
    other: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = sandbox(folder, embedded_only, stack, platform, "kafka")
    mine.start()
    port, written = port_of(mine, "kafka"), (mine.local / "env").read_text()
    mine.stop()
    (mine.local / "env").write_text(written)  # as after a power failure
    monkeypatch.setenv("CHURN_LOCAL", str(mine.local))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")

    with stranger("kafka", port, other) as listening:
        outcome = runner.invoke(app, ["produce", "--count", "1"])

        topics = AdminClient({"bootstrap.servers": f"{HOST}:{port}"}).list_topics(timeout=10).topics
        assert outcome.exit_code == ExitCode.FAILED
        assert f"port {port} of {HOST}: process {listening()} " in outcome.output
        assert not [name for name in topics if not name.startswith("__")]


@pytest.mark.slow
def test_the_demo_sends_nothing_to_a_web_server_that_is_not_ours(
    embedded_only: dict[str, str], stack: Stack, platform: str, folder: Path, other: Path
) -> None:
    mine = sandbox(folder, embedded_only, stack, platform, "webserver")
    mine.start()
    try:
        mine.require_own_servers("webserver")
        mine.stop_part("webserver")
        with (
            stranger("webserver", port_of(mine, "webserver"), other),
            pytest.raises(PortTakenError, match="Dagster UI cannot use port"),
        ):
            mine.require_own_servers("webserver")
    finally:
        mine.stop()


@pytest.mark.slow
def test_a_code_server_that_another_has_displaced_is_not_ready(
    embedded_only: dict[str, str], stack: Stack, platform: str, folder: Path, other: Path
) -> None:
    mine = sandbox(folder, embedded_only, stack, platform, "webserver")
    mine.start()
    try:
        socket = mine.local / "run" / "code.sock"
        socket.unlink()
        with stranger("code", socket, other) as listening:
            assert not mine.is_ready("code")
            (found,) = (part for part in mine.status() if part.name == "code")
            assert found.state == "port taken"
            assert found.problem is not None
            assert f"process {listening()} " in found.problem
    finally:
        mine.stop()


@pytest.mark.slow
def test_the_daemon_is_not_ready_through_a_web_server_that_is_not_ours(
    embedded_only: dict[str, str], stack: Stack, platform: str, folder: Path, other: Path
) -> None:
    mine = sandbox(folder, embedded_only, stack, platform, "webserver")
    mine.start()
    try:
        mine.stop_part("webserver")
        with stranger("webserver", port_of(mine, "webserver"), other):
            assert not mine.is_ready("daemon")
        mine.start_part("webserver")
        wait_until(lambda: mine.is_ready("daemon"), 60, "the daemon to be ready again")
    finally:
        mine.stop()
