"""Every alert, from the real condition through Prometheus and Alertmanager to a webhook, and back; and every query."""

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import dagster as dg
import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.alerts.conditions import CONDITIONS
from churn_platform.alerts.evidence import Bounds, Evidence, StreamWatch, free_shares
from churn_platform.alerts.operator_duty import OperatorConditions
from churn_platform.database import alert_outbox, challengers, model_versions
from churn_platform.database.connections import connect
from churn_platform.local.stack import Stack
from churn_platform.observability import endpoint
from churn_platform.observability.endpoint import WorkerCollector
from churn_platform.observability.grafana import DASHBOARDS
from churn_platform.observability.reading import DatabaseReader, TimelyReader
from churn_platform.observability.rules import ALERTS, RECORDINGS, rules_file
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import PROJECT_ROOT, Settings
from churn_platform.worker.duty import Duty
from churn_platform.worker.loop import Worker
from churn_platform.worker.totals import TotalsDuty
from churn_platform_tests.alerts.dagster_runs import (
    add_heartbeat,
    dagster_address,
    dagster_instance,
    fail,
    job,
    succeed,
)
from churn_platform_tests.alerts.receivers import HttpReceiver
from churn_platform_tests.api.conftest import config_of
from churn_platform_tests.api.running import Api, serving
from churn_platform_tests.observability.servers import Prometheus, alertmanager, free_port, prometheus, wait_for_rows
from churn_platform_tests.outages import away
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GIGABYTE = 1024**3
# A disk in memory, where there is a large one: other programs write less to it than to that of temporary files.
MEMORY_DISK = Path("/dev/shm")  # noqa: S108  a disk, not a file
# Of the alert about conditions that nobody evaluates: a minute passes until it fires.
LONGEST_SECONDS = 150.0


@contextmanager
def relay(port: int, to: tuple[str, int]) -> Iterator[None]:
    """Connect a port to a server until the block ends. Before and after, nothing listens there."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
        except OSError:
            pass  # one of them has closed the connection
        for each in (source, target):
            each.close()

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return  # the block has ended
            upstream = socket.create_connection(to)
            for pair in ((client, upstream), (upstream, client)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as server:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)


@dataclass
class Platform:
    """A worker of a stream in this process, which evaluates conditions twice a second, and its metrics endpoint."""

    stream: Stream
    disk: Path
    kafka_port: int
    metrics_port: int = field(default_factory=free_port)
    stop_metrics: Callable[[], None] = lambda: None

    def evidence(self) -> Evidence:
        """Return what the conditions look at: the same things as always, with bounds that a test reaches soon."""
        share = free_shares({"CHURN_LOCAL": self.disk})["CHURN_LOCAL"]
        usage = os.statvfs(self.disk)
        bounds = replace(
            Bounds.from_settings(Settings()),
            stalled_seconds=2.0,
            max_lag=5,
            disk_min_free=share - GIGABYTE / 2 / (usage.f_blocks * usage.f_frsize),
        )
        client = {
            **self.stream.config.kafka.client,
            "bootstrap.servers": f"127.0.0.1:{self.kafka_port}",
            "log_level": 0,
        }
        watch = StreamWatch(
            client,
            self.stream.config.events_topic,
            group=self.stream.config.kafka.group,
            outcomes_topic="none",
        )
        return Evidence(bounds, watch, {"CHURN_LOCAL": self.disk})

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """Run the worker until the block ends."""
        conditions = [replace(each, every=0.0, after=0.0) for each in CONDITIONS]
        duties: list[Duty] = [
            OperatorConditions(
                self.evidence(),
                (),
                environment="here",
                keep_days=90,
                conditions=conditions,
                interval=0.5,
                clear_seconds=1.0,
            ),
            TotalsDuty(),
        ]
        worker = Worker(duties, self.connect, largest_pause=1.0)
        worker.start()
        self.serve(worker)
        try:
            yield worker
        finally:
            self.stop_metrics()
            worker.stop()

    def connect(self, name: str) -> psycopg.Connection:
        """Open a session."""
        return connect(self.stream.config.dsn, application_name=name, autocommit=True, connect_timeout=5)

    def serve(self, worker: Worker) -> None:
        """Serve the metrics of a worker."""
        reader = TimelyReader(
            DatabaseReader(lambda: self.connect("churn worker metrics"), self.stream.config.events_topic),
            fresh_seconds=0.0,
        )
        collector = WorkerCollector(
            reader.read, worker.states, events_topic=self.stream.config.events_topic, outcomes_topic="none"
        )
        self.stop_metrics = endpoint.serve(collector, host="127.0.0.1", port=self.metrics_port)


@dataclass
class Webhook:
    """What Alertmanager has told a webhook: the latest state of each alert."""

    receiver: HttpReceiver

    def alerts(self, status: str) -> set[str]:
        """Return the names of the alerts whose latest message has this status."""
        latest = {
            alert["labels"]["alertname"]: alert["status"]
            for _, _, body in list(self.receiver.requests)
            for alert in body["alerts"]
        }
        return {name for name, state in latest.items() if state == status}

    def wait_for(self, status: str, *names: str, seconds: float = 60) -> None:
        """Wait until the webhook was told that these alerts fire, or are resolved."""
        wait_until(
            lambda: set(names) <= self.alerts(status),
            seconds,
            f"{', '.join(sorted(names))} {status}; firing: {sorted(self.alerts('firing'))}",
        )


def quick_rules() -> dict[str, Any]:
    """Return the rules, with alerts that have to hold for a second instead of a minute. promtool tests the minutes."""
    rules: dict[str, Any] = yaml.safe_load(yaml.safe_dump(rules_file()))
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
    return rules


def alertmanager_configuration(url: str) -> dict[str, Any]:
    """Return the example of the repository with another address, and without its waits."""
    configuration: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "deploy/prometheus/alertmanager.yml").read_text())
    configuration["route"].update(group_wait="0s", group_interval="1s")
    configuration["receivers"][0]["webhook_configs"][0]["url"] = url
    return configuration


@pytest.fixture
def instance(stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in the stream's database."""
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_address(stream.config.dsn))
    with dagster_instance(tmp_path) as instance:
        add_heartbeat(instance, seconds_ago=0)
        yield instance


@dg.asset
def customers() -> None:
    """Nothing."""


def materialize(instance: dg.DagsterInstance, *, passed: bool) -> None:
    """Materialize an asset whose check passes or fails."""

    @dg.asset_check(asset=customers)
    def rule() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.ERROR)

    dg.materialize([customers, rule], instance=instance, raise_on_error=False)


def try_canary(connection: psycopg.Connection, *, ended_by: challengers.EndedBy) -> None:
    """Start a canary of version 2 and end it at once."""
    canary = challengers.start(connection, "canary", model_version=2, share=0.1)
    challengers.end(connection, canary, by=ended_by, reason="A test.")


@dataclass
class Clients:
    """A program that asks the API for a prediction again and again, until the block ends.

    Attributes:
        api: that it asks.
        request: an event, or several.
        pause: seconds between two requests.
    """

    api: Api
    request: Mapping[str, object]
    pause: float = 0.5
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(self.pause):
            self.api.post("/v1/predictions", self.request)


def address(url: str) -> str:
    """Return host and port of a URL."""
    return url.removeprefix("http://")


def disk_of(folder: Path) -> Path:
    """Return a folder on the disk that the test fills: in memory if there is room, else that of this folder."""
    has_room = MEMORY_DISK.exists() and shutil.disk_usage(MEMORY_DISK).free > 4 * GIGABYTE
    return MEMORY_DISK if has_room else folder


def broker_of(stream: Stream) -> tuple[str, int]:
    """Return host and port of the broker."""
    host, _, port = str(stream.config.kafka.client["bootstrap.servers"]).partition(":")
    return host, int(port)


def test_every_alert_reaches_the_webhook_when_its_condition_begins_and_when_it_ends(
    stream: Stream,
    bundle_uri: str,
    stack: Stack,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    prometheus_program: str,
    alertmanager_program: str,
    bank_schema: CustomerSchema,
) -> None:
    connection = stream.connection
    name = str(conninfo_to_dict(stream.config.dsn)["dbname"])
    disk = disk_of(tmp_path)
    platform = Platform(stream, disk, free_port())
    with ExitStack() as running:
        big = running.enter_context(tempfile.TemporaryFile(dir=disk))
        receiver = running.enter_context(HttpReceiver())
        webhook = Webhook(receiver)
        owner = running.enter_context(psycopg.connect(make_conninfo(stack.owner_dsn, dbname=name), autocommit=True))
        worker = running.enter_context(platform.worker())
        # The API starts before there is a champion.
        connection.execute("update model_versions set promoted_at = null")
        api = running.enter_context(serving(config_of(stack, stream.config.dsn, bank_schema)))
        clients = running.enter_context(Clients(api, event(1)))
        for folder in ("prometheus", "alertmanager"):
            (tmp_path / folder).mkdir()
        manager = running.enter_context(
            alertmanager(
                alertmanager_program,
                tmp_path / "alertmanager",
                configuration=alertmanager_configuration(receiver.url),
            )
        )
        server = running.enter_context(
            prometheus(
                prometheus_program,
                tmp_path / "prometheus",
                rules=quick_rules(),
                targets={
                    "churn-worker": f"127.0.0.1:{platform.metrics_port}",
                    "churn-api": address(api.url),
                },
                alertmanager=manager,
            )
        )

        webhook.wait_for("firing", "ChurnApiErrors", "ChurnApiWithoutModel")
        model_versions.promote(connection, 1)
        clients.pause = 0.005
        webhook.wait_for("resolved", "ChurnApiErrors", "ChurnApiWithoutModel")
        clients.pause = 0.5

        # Nothing listens at the address of Kafka yet. The others begin now.
        stream.send([event(number) for number in range(100)] + [b"bad"] * 20)
        stream.stream()
        add_heartbeat(instance, seconds_ago=200)
        job("training_job", fail).execute_in_process(instance=instance, raise_on_error=False)
        materialize(instance, passed=False)
        connection.execute("update model_versions set registered_at = now() - interval '91 days'")
        model_versions.register(connection, version=2, uri=bundle_uri, run_id="2", metrics={})
        try_canary(connection, ended_by="rollback")
        alert_outbox.add(connection, kind="case", reference="1", payload={"subject": "", "text": ""}, targets=["crm"])
        connection.execute("update alert_outbox set status = 'failed'")
        os.posix_fallocate(big.fileno(), 0, GIGABYTE)
        begun = (
            *("ChurnKafkaUnreachable", "ChurnDeadLetters", "ChurnDaemonSilent", "ChurnRunFailed", "ChurnCheckFailed"),
            *("ChurnChampionOld", "ChurnCanaryRolledBack", "ChurnMessagesUnsettled", "ChurnDiskFull"),
        )
        webhook.wait_for("firing", *begun)

        # They end. Events wait, and nothing reads them.
        stream.send([event(number) for number in range(8)])
        running.enter_context(relay(platform.kafka_port, broker_of(stream)))
        connection.execute("update stream_batches set opened = opened - interval '1 hour'")
        add_heartbeat(instance, seconds_ago=0)
        job("training_job", succeed).execute_in_process(instance=instance)
        connection.execute("update dagster.runs set end_time = end_time - 601")
        materialize(instance, passed=True)
        connection.execute("update model_versions set registered_at = now()")
        try_canary(connection, ended_by="hand")
        alert_outbox.dismiss(connection, [1])
        big.truncate(0)
        webhook.wait_for("resolved", *begun)
        webhook.wait_for("firing", "ChurnStreamStalled", "ChurnStreamLag")

        # The stream reads them, and a duty of the worker may not write.
        owner.execute("revoke insert on stream_totals from churn_writer")
        stream.stream()
        webhook.wait_for("resolved", "ChurnStreamStalled", "ChurnStreamLag")
        webhook.wait_for("firing", "ChurnDutyFailing")
        owner.execute("grant insert on stream_totals to churn_writer")
        webhook.wait_for("resolved", "ChurnDutyFailing")

        # The worker can read and not write, so that no condition is evaluated.
        with psycopg.connect(make_conninfo(stack.owner_dsn, dbname=name)) as locking:
            locking.execute("lock table stream_lag in share mode")
            webhook.wait_for("firing", "ChurnConditionsStale", seconds=LONGEST_SECONDS)
        webhook.wait_for("resolved", "ChurnConditionsStale")

        with away(stack, stream.config.dsn):
            webhook.wait_for("firing", "ChurnDatabaseUnreadable")
        webhook.wait_for("resolved", "ChurnDatabaseUnreadable")

        platform.stop_metrics()
        webhook.wait_for("firing", "ChurnWorkerAbsent")
        platform.serve(worker)
        webhook.wait_for("resolved", "ChurnWorkerAbsent")

        wait_until(lambda: webhook.alerts("resolved") == {each.name for each in ALERTS}, what="every alert resolved")
        assert webhook.alerts("firing") == set()
        wait_until(lambda: not server.firing())


def _fill(stream: Stream, instance: dg.DagsterInstance) -> None:
    """Put something into everything that a dashboard shows."""
    connection = stream.connection
    job("training_job", fail).execute_in_process(instance=instance, raise_on_error=False)
    for feature in ("Age", "score"):
        connection.execute(
            "insert into drift_daily (date, model_version, feature, sampled, weight, counts, outside, psi, verdict, "
            "missing_rate, out_of_range_rate, version) "
            "values (current_date, 1, %s, 500, 1, '{}', 0, 0.3, 'drift', 0, 0, 1)",
            (feature,),
        )
    connection.execute(
        "insert into live_performance (date, model_version, window_days, labelled, churned, roc_auc, expected_roc_auc, "
        "brier, ece, mean_score, churn_rate) values (current_date, 1, 30, 500, 100, 0.8, 0.85, 0.1, 0.05, 0.2, 0.2)"
    )


def _queries() -> list[tuple[str, str]]:
    panels = [(f"{each.uid}: {panel.title}", panel.queries) for each in DASHBOARDS for panel in each.panels]
    shown = [(title, query.expression) for title, queries in panels for query in queries]
    return [*shown, *((each.name, each.name) for each in RECORDINGS)]


def test_every_query_of_the_dashboards_returns_rows(
    stream: Stream,
    stack: Stack,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    prometheus_program: str,
    bank_schema: CustomerSchema,
) -> None:
    _fill(stream, instance)
    port = free_port()
    platform = Platform(stream, tmp_path, broker_of(stream)[1], metrics_port=port)
    stream.send([event(1), b"bad"])
    with ExitStack() as running:
        running.enter_context(platform.worker())
        api = running.enter_context(serving(config_of(stack, stream.config.dsn, bank_schema)))
        running.enter_context(Clients(api, {"customers": [event(1), event(2, Age="old")]}))
        (tmp_path / "prometheus").mkdir()
        server: Prometheus = running.enter_context(
            prometheus(
                prometheus_program,
                tmp_path / "prometheus",
                rules=quick_rules(),
                targets={"churn-worker": f"127.0.0.1:{port}", "churn-api": address(api.url)},
            )
        )
        # A run that lives, so that there is an open batch: a rate needs two samples with events.
        thread = stream.start(stream.plan(), idle_seconds=30.0)
        running.callback(thread.join)
        wait_for_rows(server, "churn_stream_end_to_end_seconds_count > 0", seconds=60)
        stream.send([event(2), b"bad"])
        wait_for_rows(server, "churn_stream_end_to_end_seconds_count > 1", seconds=60)
        missing = []
        for title, expression in _queries():
            try:
                wait_for_rows(server, expression, seconds=20)
            except AssertionError:
                missing.append((title, expression))
        assert missing == []
        assert server.targets() == {"churn-worker": "up", "churn-api": "up"}
