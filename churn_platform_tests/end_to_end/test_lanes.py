"""Lanes under the daemon: their number changes as docs/how-to/use-lanes.md says, while events arrive and runs die."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from churn_platform.database import advisory_locks, model_versions
from churn_platform.deployment.dagster_home import CONCURRENT_RUNS
from churn_platform.lanes import Lane, lanes
from churn_platform.local.environment import ARTIFACTS_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.model_store import save_bundle
from churn_platform.schema.generator import generate_customers
from churn_platform.settings import PROJECT_ROOT, load_settings
from churn_platform.simulation.producer import Mix, rows_of
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.end_to_end.running import EVENTS_TOPIC, Running
from churn_platform_tests.faults.traffic import Traffic
from churn_platform_tests.scoring.bundles import small_bundle
from churn_platform_tests.waiting import wait_until

CHURN: Final = Path(sys.executable).with_name("churn")
JOB: Final = "prediction_stream_job"
RATE: Final = 200.0  # events a second
SEED: Final = 17
TIMEOUT: Final = 300.0  # seconds; long, because the machine may be busy with something else
SETTINGS: Final = {"BATCH_SECONDS": "20", "METRICS_SECONDS": "3600"}  # batches that end during the test, and no metrics
COUNTED: Final = """
    select sum(events)::bigint, sum(predictions)::bigint, sum(dead_letters)::bigint, sum(duplicates)::bigint
    from stream_batches
"""
UNFINISHED: Final = """
    select count(*) from stream_batches where opened is not null and (closed is null or not reported)
"""


class Operator:
    """Somebody who operates a platform with the churn command."""

    def __init__(self, folder: Path, given: Mapping[str, str]) -> None:
        """Start nothing yet.

        Args:
            folder: for the platform and its files.
            given: the environment, without LANES.
        """
        self._folder = folder
        self._environment = {**given, **SETTINGS, "CHURN_LOCAL": str(folder / "local"), "COLUMNS": "200"}

    def churn(self, *words: str, count: int) -> str:
        """Run a command with so many lanes in its settings, and return what it prints."""
        ended = subprocess.run(
            [CHURN, *words],
            env={**self._environment, "LANES": str(count)},
            capture_output=True,
            text=True,
            timeout=2 * TIMEOUT,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def stream_status(self, count: int) -> dict[str, Any]:
        """Return what `churn status` reports about the stream."""
        found: dict[str, Any] = json.loads(self.churn("status", "--json", count=count))["stream"]
        return found

    @contextmanager
    def up(self, count: int) -> Iterator[Running]:
        """Keep the platform up, with so many lanes, while the block lasts."""
        self.churn("up", count=count)
        try:
            local = self._folder / "local"
            with Running(Stack(local, given=self._environment, env_file=Path(os.devnull))) as running:
                yield running
        finally:
            self.churn("down", count=count)

    def create_champion(self, running: Running) -> None:
        """Make the platform able to score."""
        uri = str(self._folder / "bundle")
        save_bundle(small_bundle(), uri)
        model_versions.register(running.connection, version=1, uri=uri, run_id="training", metrics={})
        model_versions.promote(running.connection, 1)


@pytest.fixture
def operator(embedded_only: dict[str, str]) -> Iterator[Operator]:
    folder = Path(tempfile.mkdtemp(prefix="churn-lanes-"))
    folder.chmod(0o711)  # under root, PostgreSQL runs as another user
    yield Operator(folder, {name: value for name, value in embedded_only.items() if name != ARTIFACTS_VARIABLE})
    shutil.rmtree(folder)


def traffic_to(running: Running) -> Traffic:
    """Return traffic to a platform, of which a part is invalid, repeated or late. It outlasts a restart of Kafka."""
    addresses = running.stack.addresses
    config = StreamConfig.from_settings(
        load_settings().with_servers(kafka=addresses["kafka"], postgres=addresses["postgres"])
    )
    customers = rows_of(generate_customers(500, seed=SEED), config.schema)
    return Traffic(config, customers, rate=RATE, mix=Mix(bad=0.02, duplicates=0.02, late=0.02), seed=SEED)


def live_run(running: Running, lane: Lane) -> str | None:
    """Return Dagster's id of the live run of a lane; None without one."""
    holder = advisory_locks.lane_sessions(running.connection, EVENTS_TOPIC, lane.of)[lane.number].holder
    return None if holder is None else holder.removeprefix(advisory_locks.SESSION_PREFIX)


def wait_for_commits(running: Running, lane: Lane, *, other_than: str | None = None) -> str:
    """Wait until the live run of a lane has committed events of its partitions, and return its id."""
    found: list[str] = []

    def commits() -> bool:
        run_id = live_run(running, lane)
        found[:] = [] if run_id in (None, other_than) else [str(run_id)]
        return bool(found) and running.value(
            "select exists (select from stream_batches where run_id = %s and lane = %s and lanes = %s and events > 0)",
            found[0],
            lane.number,
            lane.of,
        )

    wait_until(commits, TIMEOUT, f"a run of {lane} to commit")
    return found[0]


def wait_for_standby(running: Running, lane: Lane) -> None:
    """Wait until a lane has a live run, and a standby that waits for its lock."""

    def stands_by() -> bool:
        found = advisory_locks.lane_sessions(running.connection, EVENTS_TOPIC, lane.of)[lane.number]
        return found.holder is not None and bool(found.waiting)

    wait_until(stands_by, TIMEOUT, f"a standby of {lane}")


def tags_of(running: Running, run_id: str) -> dict[str, str]:
    """Return the tags of a streaming run."""
    (run,) = (each for each in running.runs(JOB) if each["runId"] == run_id)
    return {tag["key"]: tag["value"] for tag in run["tags"]}


def require_all_lanes(operator: Operator, running: Running, count: int) -> None:
    """Wait until each lane commits, and check that its run, its batch and `churn status` name it."""
    live = {lane: wait_for_commits(running, lane) for lane in lanes(count)}
    for lane, run_id in live.items():
        tags = tags_of(running, run_id)
        assert tags["dagster/sensor_name"] == "customer_events_sensor"
        assert (tags["churn/stream"], tags["churn/lane"]) == ("live", str(lane.number))
        assert tags["dagster/partition"].endswith(f"Z-{lane.number}")
        wait_for_standby(running, lane)
    shown = operator.stream_status(count)
    assert (len(shown["lanes"]), shown["wanted_lanes"]) == (count, count)
    launched = {run["runId"] for run in running.runs(JOB)}
    for number, each in enumerate(shown["lanes"]):
        assert each["lane"] == number
        assert each["live_run"] in launched
        assert each["latest_batch"]["batch"].endswith(f"Z-{number}")
    text = operator.churn("status", count=count)
    assert re.search(r"^Lane +Live run +Standbys +Last batch +Waiting$", text, re.MULTILINE), text
    assert re.findall(r"^(\d) +[0-9a-f-]{36} ", text, re.MULTILINE) == [str(lane.number) for lane in lanes(count)], text


def kill_live_run(running: Running, lane: Lane) -> str:
    """Kill the process of the live run of a lane (kill -9), and return the run's id."""
    wait_for_standby(running, lane)
    run_id = wait_for_commits(running, lane)
    running.process_of(run_id).kill()
    return run_id


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_lanes_change_from_2_to_3_and_back_while_events_arrive_and_runs_die(operator: Operator) -> None:
    with operator.up(2) as running:
        operator.create_champion(running)
        traffic = traffic_to(running)
        traffic.start()
        require_all_lanes(operator, running, 2)
        killed = kill_live_run(running, Lane(2, 1))
        wait_for_commits(running, Lane(2, 1), other_than=killed)

    with operator.up(3) as running:
        require_all_lanes(operator, running, 3)
        killed = kill_live_run(running, Lane(3, 2))
        wait_for_commits(running, Lane(3, 2), other_than=killed)
        written = (running.stack.local / "dagster" / "dagster.yaml").read_text()
        usual = (PROJECT_ROOT / "dagster.yaml").read_text()
        assert int(CONCURRENT_RUNS.findall(written)[0][1]) == int(CONCURRENT_RUNS.findall(usual)[0][1]) + 4
        kill_live_run(running, Lane(3, 0))  # dead when the number changes: its batch is open

    with operator.up(2) as running:
        require_all_lanes(operator, running, 2)
        traffic.stop()
        sent = traffic.sent
        wait_until(lambda: running.events_read() >= sent.messages, TIMEOUT, "all events to be read")
        wait_until(lambda: running.value(UNFINISHED) == 0, TIMEOUT, "all batches to be closed and reported")
        assert running.rows(COUNTED) == [(sent.messages, sent.predictions, sent.dead_letters, sent.duplicates)]
        assert running.rows("select distinct lanes, lane from stream_batches where events > 0 order by 1, 2") == [
            (lane.of, lane.number) for count in (2, 3) for lane in lanes(count)
        ]
        opened = {batch for (batch,) in running.rows("select batch from stream_batches where opened is not null")}
        assert opened <= running.materialized_batches()
        verified = json.loads(operator.churn("verify", "--json", count=2))
        assert verified["holds"]
        (published,) = (each for each in verified["invariants"] if each["name"] == "published")
        assert published["figures"]["not_yet_published"] == 0
        assert len(operator.stream_status(2)["lanes"]) == 2
