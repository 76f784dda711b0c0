"""Cost of growth: commits, sensor ticks, the asset page and the archive, with more and more partitions and rows."""

import json
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import dagster as dg
import numpy as np
import psycopg
import typer
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster_graphql.cli import execute_query
from rich.console import Console
from rich.table import Table

from benchmarks.latency import wait_until
from benchmarks.servers import new_database, own_stack, owner_of, vacuum
from churn_platform.archive import archive_next
from churn_platform.database import ledger, model_versions, stream_batches, stream_positions
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.decoding.events import MICROSECONDS, EventColumns
from churn_platform.definitions import defs
from churn_platform.environments import created_topics
from churn_platform.kafka import topics
from churn_platform.kafka.sending import send
from churn_platform.lanes import WHOLE
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.orchestration.assets.batches import batch_metadata
from churn_platform.orchestration.partitions import batch_key, batches
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.run_liveness import STREAM_TAG
from churn_platform.orchestration.stream_sensors import customer_events_sensor
from churn_platform.schema.current import schema_of
from churn_platform.settings import settings
from churn_platform.stream.commit_rows import Source, high_risk_ids, write_rows
from churn_platform.stream.prediction_values import prediction_rows
from churn_platform.stream.scoring import ScoredEvents

TICKS: Final = 15
PAGES: Final = 7
# Events per commit, and number of commits.
SMALL: Final = 1_000
SMALL_COMMITS: Final = 25
LARGE: Final = 10_000
LARGE_COMMITS: Final = 9
WARM_UP: Final = 3
# One minute at 500 events per second.
BATCH_ROWS: Final = 30_000
ARCHIVED_ROWS: Final = 1_000_000
CUSTOMERS: Final = 1_000_000
TOPIC: Final = "benchmark"
NOW: Final = datetime.now(UTC)
LONG_AGO: Final = NOW - timedelta(days=200)
GROWTH_ALLOWED: Final = 1.5

PAGE: Final = """
query PartitionHealthQuery($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      partitionKeysByDimension { name partitionKeys }
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses {
          materializedPartitions materializingPartitions failedPartitions unmaterializedPartitions
        }
      }
    }
  }
}
"""
COPY_RUNS: Final = """
    insert into dagster.runs (run_id, snapshot_id, pipeline_name, status, run_body, create_timestamp, update_timestamp)
    select n.run_id, r.snapshot_id, r.pipeline_name, r.status,
        replace(replace(r.run_body, r.run_id, n.run_id), %(template)s, n.key), r.create_timestamp, r.update_timestamp
    from dagster.runs r, unnest(%(run_ids)s::text[], %(keys)s::text[]) as n (run_id, key) where r.run_id = %(run_id)s
"""
COPY_TAGS: Final = """
    insert into dagster.run_tags (run_id, key, value)
    select n.run_id, t.key, replace(t.value, %(template)s, n.key)
    from dagster.run_tags t, unnest(%(run_ids)s::text[], %(keys)s::text[]) as n (run_id, key)
    where t.run_id = %(run_id)s
"""
COPY_EVENTS: Final = """
    insert into dagster.event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    select n.run_id, replace(replace(e.event, e.run_id, n.run_id), %(template)s, n.key), e.dagster_event_type,
        e.timestamp, e.step_key, e.asset_key, replace(e.partition, %(template)s, n.key)
    from unnest(%(run_ids)s::text[], %(keys)s::text[]) as n (run_id, key), dagster.event_logs e
    where e.run_id = %(run_id)s
    order by n.key, e.id
"""
ADD_BATCHES: Final = """
    insert into stream_batches (batch, planned, opened, closed, reported)
    select key, now(), now(), now(), true from unnest(%s::text[]) as n (key)
"""
ADD_RANGES: Final = """
    insert into stream_ranges (batch, topic_id, kafka_partition, start_offset, end_offset, sealed_offset)
    select key, %(topic)s, partition, 1000 * n, 1000 * (n + 1), 1000 * (n + 1)
    from unnest(%(keys)s::text[]) with ordinality as k (key, place), generate_series(0, 2) as partition,
        lateral (select %(first)s + place as n) as numbered
"""


@dataclass(frozen=True)
class Cost:
    """Median seconds of a platform that has grown, and of a new one, measured alternately."""

    grown: float
    new: float

    @property
    def ratio(self) -> float:
        """Cost relative to the new platform."""
        return self.grown / self.new


@dataclass
class Results:
    """Costs by number of partitions or rows. Archive costs are in seconds."""

    tick: dict[int, Cost] = field(default_factory=dict)
    page: dict[int, Cost] = field(default_factory=dict)
    commit_1000: dict[int, Cost] = field(default_factory=dict)
    commit_10000: dict[int, Cost] = field(default_factory=dict)
    archive_million: dict[int, float] = field(default_factory=dict)
    slowest_commit_1000_while_archiving: dict[int, float] = field(default_factory=dict)


def compare(count: int, grown: Callable[[], object], new: Callable[[], object]) -> Cost:
    """Measure both alternately, so that other load on the machine affects both alike."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM_UP + count):
        for work, took in zip((grown, new), seconds, strict=True):
            began = time.perf_counter()
            work()
            if number >= WARM_UP:
                took.append(time.perf_counter() - began)
    return Cost(*map(statistics.median, seconds))


class Database(PostgresResource):
    """One of the two databases."""

    dsn: str

    def connect(self, application_name: str) -> psycopg.Connection:
        """Return a connection to the database."""
        return psycopg.connect(self.dsn, application_name=application_name)


class Stream:
    """Commits synthetic events like a streaming run, of a topic that exists only in the ledger."""

    def __init__(self, connection: psycopg.Connection, *, begins: datetime = LONG_AGO, per_second: float = 500) -> None:
        self._connection = connection
        self._per_second = per_second
        self._schema = schema_of(settings())
        self._random = np.random.default_rng(42)
        self._positions = dict.fromkeys(range(3), 0)
        stream_positions.add_positions(connection, topic=TOPIC, topic_id=TOPIC, starts=self._positions)
        self._moment = begins

    def open_batch(self) -> str:
        """Open a batch whose events follow those of the previous one."""
        key = batch_key(self._moment)
        stream_batches.plan_batch(self._connection, key)
        return key

    def close_batch(self, key: str) -> None:
        """Close a batch with a time long ago, so that it is due for the archive."""
        self._connection.execute(
            "update stream_batches set closed = %s, reported = true where batch = %s", (self._moment, key)
        )

    def commit(self, key: str, count: int) -> None:
        """Commit events without a Kafka transaction."""
        scored, ends = self._events(count), dict(self._positions)
        for partition in ends:
            ends[partition] += int((scored.events.kafka_partition == partition).sum())
        source = Source(batch=key, topic=TOPIC, topic_id=TOPIC)
        threshold = settings().retention.high_risk_threshold
        with self._connection.transaction():
            written = write_rows(
                self._connection,
                source,
                self._schema,
                scored,
                prediction_rows(prediction_table(self._schema), source.batch, scored),
                (),
                (),
                compare=False,
                high_risk_threshold=threshold,
                erased=0,
            )
            ledger.advance(
                self._connection,
                ledger.Advance(
                    batch=key,
                    lanes=1,
                    topic_id=TOPIC,
                    starts=self._positions,
                    ends=ends,
                    last_records={
                        partition: stream_positions.LastRecord(end - 1, b"", None) for partition, end in ends.items()
                    },
                    predictions=count,
                    dead_letters=0,
                    duplicates=0,
                    erased=0,
                    erasures=0,
                    opened=self._moment,
                    accepts_from=LONG_AGO,
                    accepts_until=NOW,
                    model_version=1,
                    hours=written.hours,
                    schema=self._schema,
                ),
                rows=None,
                risky=high_risk_ids(written.predictions, threshold),
                threshold=threshold,
            )
        self._positions = ends

    def _events(self, count: int) -> ScoredEvents:
        """Return events of random customers, with time-ordered ids like those of producers."""
        random = self._random
        first = int(self._moment.timestamp() * MICROSECONDS)
        times = first + np.arange(count, dtype=np.int64) * round(MICROSECONDS / self._per_second)
        self._moment += timedelta(seconds=count / self._per_second)
        ids = np.frombuffer(random.bytes(16 * count), np.uint8).reshape(count, 16).copy()
        ids[:, :6] = (times // 1000).astype(">u8").view(np.uint8).reshape(count, 8)[:, 2:]
        ids[:, 6], ids[:, 8] = ids[:, 6] & 0x0F | 0x70, ids[:, 8] & 0x3F | 0x80
        partitions = (np.arange(count) % 3).astype(np.int32)
        starts = np.array([self._positions[partition] for partition in range(3)])
        columns: dict[str, np.ndarray[Any, Any]] = {
            "CreditScore": random.integers(300, 900, count, np.int16),
            "Geography": random.choice(np.array(["France", "Germany", "Spain"], object), count),
            "Gender": random.choice(np.array(["Female", "Male"], object), count),
            "Age": random.integers(18, 90, count).astype(np.float32),
            "Tenure": random.integers(0, 11, count, np.int16),
            "Balance": np.round(random.random(count) * 2e5, 2),
            "NumOfProducts": random.integers(1, 5, count, np.int16),
            "HasCrCard": random.integers(0, 2, count, np.int16),
            "IsActiveMember": random.integers(0, 2, count, np.int16),
            "EstimatedSalary": np.round(random.random(count) * 2e5, 2),
        }
        risk = random.beta(2, 5, count).astype(np.float32)
        return ScoredEvents(
            events=EventColumns(
                event_id=ids.view("V16").reshape(count),
                event_ref=np.full(count, None, object),
                event_timestamp=times,
                timestamp_given=np.ones(count, np.bool_),
                customer_id=random.integers(15_000_000, 15_000_000 + CUSTOMERS, count, np.int64),
                customers=columns,
                true_churn_label=np.full(count, -1, np.int16),
                kafka_partition=partitions,
                kafka_offset=(starts[partitions] + np.arange(count) // 3).astype(np.int64),
            ),
            risk_score=risk,
            prediction=(risk >= 0.5).astype(np.int16),
            model_version=1,
            champion_version=1,
            predicted_at=first,
        )


class Platform:
    """A platform in a database with its own and Dagster's tables, and the operations to measure."""

    def __init__(self, dsn: str, *, owner: str, dagster_url: str, folder: Path) -> None:
        self.dsn = dsn
        self._owner = owner
        folder.mkdir(exist_ok=True, parents=True)
        storage = {"postgres": {"postgres_url": dagster_url}}
        (folder / "dagster.yaml").write_text(json.dumps({"storage": storage, "telemetry": {"enabled": False}}))
        self.instance = dg.DagsterInstance.from_config(str(folder))
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.stream = Stream(self.connection)
        self.partitions = self.rows = 0
        self._database = Database(dsn=dsn)
        # With a champion and a lag, a tick does all of its work.
        model_versions.register(self.connection, version=1, uri="", run_id="", metrics={})
        model_versions.promote(self.connection, 1)

    def tick(self) -> None:
        """Evaluate the sensor once."""
        with dg.build_sensor_context(
            instance=self.instance,
            definitions=defs,
            resources={"postgres": self._database, "kafka": KafkaResource()},
        ) as context:
            result = customer_events_sensor(context)
        if not isinstance(result, dg.SensorResult) or not result.run_requests:
            raise RuntimeError(f"The tick should request a run, but returned {result}.")

    @contextmanager
    def asset_page(self) -> Iterator[Callable[[], None]]:
        """Return a function that queries partition statuses as the page of churn_predictions does."""
        target = ModuleTarget("churn_platform.definitions", attribute=None, working_directory=None, location_name=None)
        with WorkspaceProcessContext(
            self.instance, target, version="", read_only=True, code_server_log_level="ERROR"
        ) as workspace:

            def ask() -> None:
                answer = execute_query(workspace, PAGE, {"key": {"path": ["churn_predictions"]}})
                shown = len(answer["data"]["assetNodeOrError"]["assetPartitionStatuses"]["materializedPartitions"])
                if shown != self.partitions:
                    raise RuntimeError(f"The page shows {shown} of {self.partitions} partitions.")

            yield ask

    def commit(self, batch: str, count: int) -> None:
        """Commit once."""
        self.stream.commit(batch, count)
        self.rows += count

    def add_rows(self, count: int) -> None:
        """Grow churn_predictions to this many rows, batch by batch."""
        while self.rows < count:
            key = self.stream.open_batch()
            self.commit(key, BATCH_ROWS)
            self.stream.close_batch(key)
        vacuum(self._owner)

    def add_partitions(self, count: int) -> None:
        """Add prediction partitions up to this number, each with its run, materialization and ledger rows."""
        numbers = range(self.partitions, count)
        if not numbers:
            return
        keys = [batch_key(NOW - timedelta(days=13) + timedelta(seconds=50 * number)) for number in numbers]
        template = "TEMPLATE-OF-A-BATCH"
        run = self.instance.create_run_for_job(
            defs.resolve_job_def("prediction_stream_job"),
            tags={STREAM_TAG: "live", "dagster/partition": template},
            status=dg.DagsterRunStatus.SUCCESS,
        )
        ranges = [stream_batches.OffsetRange("a" * 22, partition, 1000, 2000) for partition in range(3)]
        batch = stream_batches.Batch(
            template, NOW, NOW, NOW, NOW, NOW, NOW, run.run_id, 1, None, 0.7, 9, 9, 0, 0, 0, 9, 0, None, None
        )
        materialization = dg.AssetMaterialization(
            "churn_predictions", partition=template, metadata=batch_metadata(batch, ranges)
        )
        self.instance.report_runless_asset_event(materialization)
        values = {
            "template": template,
            "run_id": run.run_id,
            "keys": keys,
            "run_ids": [str(uuid.uuid4()) for _ in keys],
            "first": self.partitions,
            "topic": "partitions",
        }
        run_of_event = "update dagster.event_logs set run_id = %(run_id)s where run_id = ''"
        for statement in (run_of_event, COPY_RUNS, COPY_TAGS, COPY_EVENTS):
            self.connection.execute(statement, values)
        self.instance.delete_run(run.run_id)
        self.connection.execute("insert into stream_topics values ('partitions', 'partitions') on conflict do nothing")
        self.connection.execute(ADD_BATCHES, (keys,))
        self.connection.execute(ADD_RANGES, values)
        self.instance.add_dynamic_partitions(str(batches.name), keys)
        vacuum(self._owner)
        self.partitions = count


class Growth:
    """Two platforms on the same servers, one of which grows."""

    def __init__(self, grown: Platform, new: Platform, console: Console) -> None:
        self._grown, self._new, self._console = grown, new, console
        self.results = Results()

    def partitions(self, counts: Sequence[int]) -> None:
        """Measure the tick and the asset page at each number of partitions."""
        kafka = KafkaResource()
        config, admin = kafka.stream(), kafka.admin()
        created_topics.create_missing(admin, config)
        send(config.kafka.client, config.events_topic, [("", b"{}")])
        topic = topics.describe(admin, config.events_topic)
        wait_until(lambda: any(topics.list_offsets(admin, topic, topics.LATEST).values()), "the event to arrive")
        with self._grown.asset_page() as grown, self._new.asset_page() as new:
            for count in counts:
                with self._progress(f"{count:,} partitions"):
                    self._grown.add_partitions(count)
                    self.results.tick[count] = compare(TICKS, self._grown.tick, self._new.tick)
                    self.results.page[count] = compare(PAGES, grown, new)

    def rows(self, counts: Sequence[int]) -> None:
        """Measure commits, and the archive if there is something to archive, at each number of rows."""
        for count in counts:
            with self._progress(f"{count:,} predictions"):
                self._grown.add_rows(count)
                grown, new = self._grown.stream.open_batch(), self._new.stream.open_batch()
                self.results.commit_1000[count] = self._commits(SMALL, grown, new, SMALL_COMMITS)
                self.results.commit_10000[count] = self._commits(LARGE, grown, new, LARGE_COMMITS)
            if count >= ARCHIVED_ROWS:
                with self._progress(f"{ARCHIVED_ROWS:,} archived"):
                    self._archive(count, grown)
            self._grown.stream.close_batch(grown)
            self._new.stream.close_batch(new)

    def _commits(self, size: int, grown: str, new: str, count: int) -> Cost:
        return compare(count, lambda: self._grown.commit(grown, size), lambda: self._new.commit(new, size))

    @contextmanager
    def _progress(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._console.print(f"{what}: {time.monotonic() - began:.0f} s", style="dim", highlight=False)

    def _archive(self, count: int, open_batch: str) -> None:
        """Archive about a million rows while commits continue."""
        archived, took = 0, 0.0
        done = threading.Event()

        def work() -> None:
            nonlocal archived, took
            began = time.perf_counter()
            try:
                with psycopg.connect(self._grown.dsn, autocommit=True) as connection:
                    stream_positions.record_published(connection, TOPIC, lane=WHOLE)
                    artifacts = settings().platform.artifacts_root
                    while archived < ARCHIVED_ROWS and (
                        file := archive_next(connection, artifacts, before=NOW - timedelta(days=90))
                    ):
                        archived += file.rows
                took = time.perf_counter() - began
            finally:
                done.set()

        thread = threading.Thread(target=work)
        thread.start()
        slowest = 0.0
        while not done.is_set():
            began = time.perf_counter()
            self._grown.commit(open_batch, SMALL)
            slowest = max(slowest, time.perf_counter() - began)
            time.sleep(0.5)  # do not compete for CPU: at 500 events per second the stream is idle most of the time
        thread.join()
        if not archived:
            raise RuntimeError("Nothing was archived; the thread's error is above.")
        self._grown.rows -= archived
        self.results.archive_million[count] = took * 1_000_000 / archived
        self.results.slowest_commit_1000_while_archiving[count] = slowest


def show(console: Console, results: Results) -> None:
    """Print the results as tables, with ratios to the new platform in brackets."""
    tables: tuple[tuple[str, dict[str, Mapping[int, Cost | float]]], ...] = (
        ("prediction partitions", {"sensor tick": results.tick, "asset page": results.page}),
        (
            "predictions",
            {
                "commit of 1,000": results.commit_1000,
                "commit of 10,000": results.commit_10000,
                "archive, a million rows": results.archive_million,
                "slowest commit of 1,000 meanwhile": results.slowest_commit_1000_while_archiving,
            },
        ),
    )
    for title, columns in tables:
        table = Table(title, *columns, box=None, header_style="dim")
        for count in next(iter(columns.values())):
            table.add_row(f"{count:,}", *(_cell(figures.get(count)) for figures in columns.values()))
        console.print(table)


def _cell(cost: Cost | float | None) -> str:
    if cost is None:
        return ""
    if isinstance(cost, Cost):
        return f"{cost.grown * 1000:,.1f} ms ({cost.ratio:.2f})"
    return f"{cost * 1000:,.0f} ms"


def platform(stack: Stack, name: str) -> Platform:
    """Create a platform in a separate database of the stack."""
    url = new_database(stack, name)
    return Platform(
        url,
        owner=owner_of(stack, name),
        dagster_url=in_schema(url, "dagster"),
        folder=stack.local / "dagster" / name,
    )


def measure(console: Console, *, partitions: Sequence[int], rows: Sequence[int]) -> Results:
    """Measure at these ascending numbers of prediction partitions and rows, on separate servers."""
    with own_stack() as stack:
        growth = Growth(platform(stack, "grown"), platform(stack, "new"), console)
        growth.partitions(partitions)
        growth.rows(rows)
    return growth.results


def main(
    partitions: Annotated[str, typer.Option(help="Numbers of prediction partitions, ascending.")] = "0,10000,20000",
    rows: Annotated[str, typer.Option(help="Numbers of rows in churn_predictions, ascending.")] = "0,1000000,10000000",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure the cost of growth on separate servers. The exit code is 1 if ticks or commits become too expensive.

    In brackets is the ratio to a new platform, which is measured alternately.

    Example: make bench-growth ARGS="--partitions 0,1000 --rows 0,1000000"
    """
    console, began = Console(width=120), time.monotonic()
    results = measure(
        console,
        partitions=[int(count) for count in partitions.split(",")],
        rows=[int(count) for count in rows.split(",")],
    )
    show(console, results)
    console.print(f"Took {time.monotonic() - began:.0f} s.", highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(results), indent=2) + "\n")
    limited = (results.tick, results.commit_1000, results.commit_10000)
    if any(cost.ratio > GROWTH_ALLOWED for each in limited for cost in each.values()):
        console.print(
            f"A tick or a commit costs more than {GROWTH_ALLOWED} times as much as on a new platform.", style="red"
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
