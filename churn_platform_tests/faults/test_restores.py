"""Ten restores of the database at random moments under traffic, with the documented commands alone."""

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database import model_versions
from churn_platform.database.migrations import upgrade
from churn_platform.kafka import clients, topics
from churn_platform.kafka.reading import read_all
from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.stack import Stack
from churn_platform.model_store import save_bundle
from churn_platform.positions.lag import read_lag
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers
from churn_platform.settings import load_settings
from churn_platform.simulation.producer import Mix, rows_of
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.faults.traffic import Traffic
from churn_platform_tests.scoring.bundles import small_bundle
from churn_platform_tests.waiting import wait_until

RESTORES: Final = 10
SEED: Final = 20
RATE: Final = 200.0
# A batch ends often, so that backups and restores meet all of its states.
BATCH_SECONDS: Final = 4
MOST_EVENTS: Final = 1_000  # that arrive before a backup or a restore, five seconds of traffic


@dataclass
class Platform:
    """Kafka, PostgreSQL, traffic, and a process that streams."""

    stack: Stack
    folder: Path
    config: StreamConfig
    traffic: Traffic
    streaming: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of the processes."""
        return {**self.stack.environment, "BATCH_SECONDS": str(BATCH_SECONDS), "IDLE_SECONDS": "1"}

    def churn(self, *arguments: str, codes: Sequence[int] = (0,)) -> str:
        """Run a command in its own process; return its output."""
        program = Path(sysconfig.get_path("scripts")) / "churn"
        outcome = subprocess.run(
            [program, *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        assert outcome.returncode in codes, f"{arguments}: {outcome.stdout}{outcome.stderr}"
        return outcome.stdout

    def start_streaming(self) -> None:
        """Start the process that streams."""
        log = (self.folder / "streaming.log").open("ab")
        command = [sys.executable, "-m", "churn_platform_tests.faults.streaming_process"]
        self.streaming = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def kill_streaming(self) -> None:
        """Kill the process that streams, wherever it is, and wait until PostgreSQL has ended its sessions."""
        if self.streaming is not None:
            self.streaming.kill()
            self.streaming.wait()
            self.streaming = None
        wait_until(lambda: not self.sessions())

    def sessions(self) -> int:
        """Return the number of other sessions of the database."""
        with psycopg.connect(self.stack.owner_dsn, autocommit=True) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity where datname = current_database() "
                "and pid <> pg_backend_pid() and backend_type = 'client backend'"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def wait_for_events(self, count: int) -> None:
        """Wait until this many more offsets of the events topic are taken."""
        until = self._end() + count
        wait_until(lambda: self._end() >= until)

    def _end(self) -> int:
        admin = clients.admin(self.config.kafka.client)
        topic = topics.describe(admin, self.config.events_topic)
        return sum(topics.list_offsets(admin, topic, topics.LATEST).values())

    def is_drained(self) -> bool:
        """Return whether everything is read."""
        with psycopg.connect(self.config.dsn, autocommit=True) as connection:
            return read_lag(connection, clients.admin(self.config.kafka.client), self.config.events_topic).waiting == 0


@contextmanager
def running(given: Mapping[str, str], schema: CustomerSchema) -> Iterator[Platform]:
    """Run the servers in a folder of their own."""
    folder = Path(tempfile.mkdtemp(prefix="churn-restores-"))
    folder.chmod(0o711)
    stack = Stack(
        folder / "local", services_only=True, usual_ports=ANY_FREE_PORTS, given=given, env_file=Path(os.devnull)
    )
    try:
        with stack.only("kafka", "postgres") as servers:
            upgrade(servers.owner_dsn, schema)
            addresses = servers.addresses
            settings = load_settings().with_servers(kafka=addresses["kafka"], postgres=addresses["postgres"])
            config = StreamConfig.from_settings(settings)
            customers = rows_of(generate_customers(1_500, seed=SEED), schema)
            traffic = Traffic(config, customers, rate=RATE, mix=Mix(bad=0.02, duplicates=0.02, late=0.02), seed=SEED)
            platform = Platform(servers, folder, config, traffic)
            try:
                yield platform
            finally:
                platform.kill_streaming()
    finally:
        shutil.rmtree(folder)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_ten_restores_at_random_moments_lose_nothing_and_publish_nothing_twice(
    embedded_only: dict[str, str], bank_schema: CustomerSchema
) -> None:
    chosen = random.Random(SEED)  # noqa: S311  a choice of moments, no secret
    with running(embedded_only, bank_schema) as platform:
        bundle = platform.folder / "bundle"
        save_bundle(small_bundle(), str(bundle))
        with psycopg.connect(platform.config.dsn, autocommit=True) as connection:
            model_versions.register(connection, version=1, uri=str(bundle), run_id="training", metrics={})
            model_versions.promote(connection, 1)
        name = str(conninfo_to_dict(platform.stack.owner_dsn)["dbname"])
        host = str(conninfo_to_dict(platform.stack.owner_dsn)["host"])
        platform.start_streaming()
        wait_until(lambda: platform.sessions() > 0)
        platform.traffic.start()
        backups: list[Path] = []
        lost = 0
        for number in range(RESTORES):
            platform.wait_for_events(chosen.randint(0, MOST_EVENTS))  # the moment of the backup
            backups.append(platform.folder / f"backup-{number}")
            platform.churn("backup", str(backups[-1]))
            platform.wait_for_events(chosen.randint(0, MOST_EVENTS))  # the moment of the restore
            platform.kill_streaming()
            backup = backups[-1] if number % 3 else chosen.choice(backups)
            platform.churn("restore", str(backup), "--replace", "--yes-replace", f"{name}@{host}")
            found: dict[str, Any] = json.loads(platform.churn("recover", "--json"))
            lost += found["lost"]
            platform.start_streaming()
        platform.traffic.stop()
        wait_until(platform.is_drained, timeout=120)
        report = json.loads(platform.churn("recover", "--report", "--json"))
        platform.kill_streaming()
        platform.churn("recover")  # publishes what the killed process has not published yet
        checked = json.loads(platform.churn("verify", "--json", codes=(0, 1)))

        assert [invariant for invariant in checked["invariants"] if not invariant["holds"]] == []
        with psycopg.connect(platform.config.dsn, autocommit=True) as connection:
            rows = {str(event_id) for (event_id,) in connection.execute("select event_id from churn_predictions")}
            counts = connection.execute("select sum(events), sum(predictions) from stream_batches").fetchone()
        published = Counter(
            json.loads(message.value() or b"")["event_id"]
            for message in read_all(platform.config.kafka, platform.config.predictions_topic)
        )
        assert lost > 0
        assert report["recovered"]["scored"] == report["recovered"]["recovered"]
        assert counts == (platform.traffic.sent.messages, platform.traffic.sent.predictions)
        assert max(published.values()) == 1
        assert set(published) == rows
        assert len(rows) == platform.traffic.sent.predictions
