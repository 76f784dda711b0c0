"""A database that was restored to an earlier state publishes nothing a second time."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_platform.database.migrations import upgrade
from churn_platform.environments.exceptions import LedgerBehindError
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.stack import Stack
from churn_platform.operations import reset, status
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.stream.streams import Stream, event, new_stream

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def postgres(
    stack: Stack, embedded_only: dict[str, str], local_folder: Path, bank_schema: CustomerSchema
) -> Iterator[Stack]:
    """A separate PostgreSQL server, whose files a test may copy and restore. Kafka is the one of all tests."""
    assert stack.is_up
    own = Stack(
        local_folder / "restored",
        services_only=True,
        usual_ports=ANY_FREE_PORTS,
        given=embedded_only,
        env_file=Path("/dev/null"),
    ).only("postgres")
    with own:
        upgrade(own.owner_dsn, bank_schema)
        yield own


def copy_files(server: Stack, source: Path, target: Path) -> None:
    """Stop the server and replace its files with a copy."""
    server.stop_part("postgres")
    if target.exists():
        shutil.rmtree(target)
    copy = shutil.which("cp")
    assert copy is not None
    subprocess.run([copy, "-a", str(source), str(target)], check=True)  # keeps the owner of each file
    server.start_part("postgres")


@pytest.mark.slow
def test_a_restored_ledger_is_refused_and_nothing_is_published_again(
    postgres: Stack, bundle_uri: str, local_folder: Path
) -> None:
    files, backup = postgres.local / "postgres", local_folder / "backup"
    with new_stream(postgres.addresses["postgres"], bundle_uri) as stream:
        stream.send([event(number) for number in range(6)], partition=0)
        stream.stream()
    copy_files(postgres, files, backup)
    with Stream(stream.config) as stream:
        stream.send([event(number) for number in range(6, 15)], partition=0)
        stream.stream()
        published = stream.published_ids()
    copy_files(postgres, backup, files)

    with Stream(stream.config) as restored:
        with pytest.raises(
            LedgerBehindError, match=r"\[0\] was read up to offset 6, but published up to 15"
        ) as refused:
            restored.stream()

        assert restored.published_ids() == published
        assert restored.value("select count(*) from churn_predictions") == 6
        assert any("published up to 15" in problem for problem in status.collect_status(restored.config).problems)
        assert "published" in [invariant.name for invariant in check_invariants(restored.config) if not invariant.holds]

        assert "churn recover" in refused.value.remedy
        topic = restored.config.events_topic  # skipping the offsets is possible, too, and gives up their rows
        with reset.hold_stream_lock(restored.config, topic) as connection:
            move = reset.plan(connection, restored.config, topic=topic, partition=0, to="15")
            assert move is not None
            reset.apply(connection, move, reason="the rows are lost")
        restored.send([event(number) for number in range(15, 18)], partition=0)
        assert restored.stream().events == 3
        assert len(restored.published_ids()) == len(published) + 3
