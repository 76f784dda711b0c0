"""Maintenance of a Dagster instance that stores its records in PostgreSQL, as the platform's does."""

import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from psycopg.conninfo import conninfo_to_dict

from churn_platform.database import stream_batches
from churn_platform.definitions import defs
from churn_platform.environments import created_topics
from churn_platform.lanes import WHOLE
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.orchestration import pruning
from churn_platform.orchestration.partitions import TimePartitions, batch_key, batches, hour_key
from churn_platform.orchestration.pruning import Budget, prune_partitions, prune_runs, prune_ticks
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.settings import Settings, settings
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.stream.streams import admin_client

NOW = datetime.now(UTC)
BEFORE = NOW - timedelta(days=14)
ENOUGH = 60.0  # seconds


@dg.asset(
    partitions_def=batches,
    check_specs=[dg.AssetCheckSpec("conservation", asset="churn_predictions")],
)
def churn_predictions() -> Iterator[dg.MaterializeResult[None]]:
    """A stand-in for the asset of that name. It leaves the same records in Dagster's tables."""
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(check_name="conservation", passed=True)])


@dg.asset(partitions_def=TimePartitions.since(Settings().stream.epoch).hours)
def churn_metrics_hourly() -> None:
    """A stand-in for the asset of that name."""


@dg.asset
def champion_model() -> None:
    """A stand-in for the asset of that name."""


class Records:
    """A Dagster instance and the ledger, with records of any age."""

    def __init__(self, instance: dg.DagsterInstance, connection: psycopg.Connection) -> None:
        self.instance, self.connection = instance, connection

    def batch(self, *, days: float, closed: bool = True, reported: bool = True, opened: bool = True) -> str:
        """Add a batch that was planned, opened and closed this many days ago, and return its key."""
        moment = NOW - timedelta(days=days)
        key = batch_key(moment)
        self.connection.execute(
            "insert into stream_batches (batch, planned, opened, closed, reported) values (%s, %s, %s, %s, %s)",
            (key, moment, moment if opened else None, moment if closed and opened else None, reported),
        )
        self.instance.add_dynamic_partitions(str(batches.name), [key])
        return key

    def materialize(self, asset: dg.AssetsDefinition, key: str | None = None, *, days: float) -> str:
        """Materialize an asset by a run that ended this many days ago, and return the run's id."""
        result = dg.materialize([asset], instance=self.instance, partition_key=key)
        assert result.success
        self.age(result.run_id, days)
        return result.run_id

    def age(self, run_id: str, days: float) -> None:
        """Date a run and its events back by this many days. An empty id means the events without a run."""
        moment = NOW - timedelta(days=days)
        self.connection.execute(
            "update dagster.runs set create_timestamp = %s, update_timestamp = %s, start_time = %s, end_time = %s "
            "where run_id = %s",
            (moment, moment, moment.timestamp(), moment.timestamp(), run_id),
        )
        self.connection.execute("update dagster.event_logs set timestamp = %s where run_id = %s", (moment, run_id))

    def run(self, key: str, status: dg.DagsterRunStatus, *, days: float, last: str | None = None) -> str:
        """Add a run of a batch, or of the batches from `key` to `last`, that is this many days old; return its id."""
        tags = {pruning.PARTITION_TAG: key} if last is None else {pruning.FIRST_TAG: key, pruning.LAST_TAG: last}
        run = self.instance.create_run_for_job(defs.resolve_job_def("prediction_stream_job"), tags=tags, status=status)
        self.age(run.run_id, days)
        return run.run_id

    def prune_partitions(self, **changes: Any) -> dict[str, int]:
        """Prune partitions older than two weeks."""
        given = {"before": BEFORE, "budget": Budget(ENOUGH), **changes}
        return prune_partitions(self.instance, self.connection, **given)

    def prune_runs(self, **changes: Any) -> dict[str, int]:
        """Prune runs older than two weeks."""
        return prune_runs(self.instance, **{"before": BEFORE, "budget": Budget(ENOUGH), **changes})

    def keys(self) -> list[str]:
        """Return the prediction partitions."""
        return sorted(self.instance.get_dynamic_partitions(str(batches.name)))

    def runs(self) -> set[str]:
        """Return the ids of all runs."""
        return set(self.instance.get_run_ids())

    def materialized(self, asset: dg.AssetsDefinition) -> set[str]:
        """Return the partitions of an asset that Dagster shows as materialized."""
        return self.instance.get_materialized_partitions(asset.key)

    def count(self, table: LiteralString) -> int:
        """Return the number of rows in one of Dagster's tables."""
        row = self.connection.execute(f"select count(*) from dagster.{table}").fetchone()  # noqa: S608  a literal
        assert row is not None
        return int(row[0])


@contextmanager
def dagster_instance(stack: Stack, database: str) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance whose records are in a database of the stack."""
    url = urlsplit(stack.environment["DATABASE_URL"])._replace(path=f"/{conninfo_to_dict(database)['dbname']}").geturl()
    with tempfile.TemporaryDirectory() as folder:
        storage = {"postgres": {"postgres_url": in_schema(url, "dagster")}}
        # JSON is valid YAML, so no value needs quoting.
        Path(folder, "dagster.yaml").write_text(json.dumps({"storage": storage, "telemetry": {"enabled": False}}))
        with dg.DagsterInstance.from_config(folder) as instance:
            yield instance


@pytest.fixture(scope="module")
def template_database(stack: Stack, template_database: str) -> str:
    """A template that has Dagster's tables, because creating them takes longer than copying them."""
    database = copy_database(stack, template_database)
    with dagster_instance(stack, database):
        return str(conninfo_to_dict(database)["dbname"])


@pytest.fixture
def records(stack: Stack, platform: str) -> Iterator[Records]:
    """The records of an instance, and the ledger beside them."""
    with dagster_instance(stack, platform) as instance, psycopg.connect(platform, autocommit=True) as connection:
        yield Records(instance, connection)


def test_old_partitions_are_deleted_with_their_runs_events_and_checks(records: Records) -> None:
    old, recent = records.batch(days=15), records.batch(days=13)
    records.materialize(churn_predictions, old, days=15)
    kept = records.materialize(churn_predictions, recent, days=13)

    pruned = records.prune_partitions()

    assert pruned == {"partitions": 1, "runs": 1, "partitions_left_for_next_time": 0}
    assert records.keys() == [recent]
    assert records.runs() == {kept}
    assert records.materialized(churn_predictions) == {recent}
    assert records.connection.execute("select distinct run_id from dagster.event_logs").fetchall() == [(kept,)]
    assert records.connection.execute("select run_id from dagster.asset_check_executions").fetchall() == [(kept,)]
    assert stream_batches.find_batch(records.connection, old) is not None


def test_a_second_pruning_deletes_nothing(records: Records) -> None:
    records.materialize(churn_predictions, records.batch(days=15), days=15)
    records.prune_partitions()
    records.prune_runs()

    assert records.prune_partitions() == {"partitions": 0, "runs": 0, "partitions_left_for_next_time": 0}
    assert set(records.prune_runs().values()) == {0}


def test_partitions_beyond_the_newest_are_deleted_whatever_their_age(records: Records) -> None:
    keys = [records.batch(days=days) for days in (5, 4, 3, 2, 1)]

    pruned = records.prune_partitions(keep=2)

    assert pruned["partitions"] == 3
    assert records.keys() == keys[3:]


def test_open_and_unreported_batches_and_those_with_a_live_run_are_kept_whatever_their_age(records: Records) -> None:
    open_one = records.batch(days=20, closed=False)
    unreported = records.batch(days=19, reported=False)
    replayed = records.batch(days=18)
    backfilled = [records.batch(days=days) for days in (17, 16, 15)]
    runs = {
        records.run(replayed, dg.DagsterRunStatus.STARTED, days=18),
        records.run(backfilled[0], dg.DagsterRunStatus.STARTED, days=0, last=backfilled[-1]),
    }

    assert records.prune_partitions(keep=0)["partitions"] == 0
    assert records.prune_runs()["runs"] == 0

    assert records.keys() == sorted([open_one, unreported, replayed, *backfilled])
    assert records.runs() == runs


def test_a_materialization_without_a_run_is_deleted_with_its_partition(records: Records) -> None:
    """The sensor reports such a materialization for a batch whose run died."""
    old = records.batch(days=15)
    records.instance.report_runless_asset_event(dg.AssetMaterialization(churn_predictions.key, partition=old))

    records.prune_partitions()

    assert records.materialized(churn_predictions) == set()
    assert records.count("event_logs") == 0


def test_old_keys_that_were_never_opened_are_deleted_except_those_to_be_used_next(records: Records) -> None:
    keys = [records.batch(days=30 - number, opened=False, reported=False) for number in range(6)]
    active = keys[4]
    records.run(active, dg.DagsterRunStatus.STARTED, days=0)
    young = records.batch(days=1, opened=False, reported=False)

    records.prune_partitions()

    assert records.keys() == [*keys[: pruning.KEPT_FOR_REUSE], active, young]
    assert [key for key in keys if stream_batches.find_batch(records.connection, key) is None] == [keys[3], keys[5]]
    assert stream_batches.oldest_unopened(records.connection, lane=WHOLE, excluding=[]) == keys[0]


def test_a_key_whose_ledger_row_was_deleted_before_a_crash_is_deleted(records: Records) -> None:
    key = batch_key(NOW - timedelta(days=15))
    records.instance.add_dynamic_partitions(str(batches.name), [key, "typed by hand"])

    records.prune_partitions()

    assert records.keys() == ["typed by hand"]


def test_the_partition_status_has_the_remaining_partitions(records: Records) -> None:
    for days in (15, 13):
        records.materialize(churn_predictions, records.batch(days=days), days=days)
    [*_, recent] = records.keys()
    status(records)

    records.prune_partitions()

    assert status(records) == {recent}


@pytest.mark.slow
def test_old_runs_are_deleted_except_those_with_the_latest_materialization_or_check(records: Records) -> None:
    hour = hour_key((NOW - timedelta(days=16)).replace(minute=0))
    batch = records.batch(days=13)  # closed after its run: the run is older
    for _ in range(2):
        records.materialize(champion_model, days=17)
        records.materialize(churn_metrics_hourly, hour, days=16)
    latest = {
        records.materialize(champion_model, days=16),
        records.materialize(churn_metrics_hourly, hour, days=15.5),
        records.materialize(churn_predictions, batch, days=15),
    }
    recent = {records.materialize(champion_model, days=1)}

    pruned = records.prune_runs()

    [champion] = [run for run in latest if run not in records.runs()]  # a newer materialization exists
    assert pruned["runs"] == 5
    assert pruned["runs_kept_for_their_materializations"] == 2
    assert records.runs() == latest - {champion} | recent
    assert records.materialized(churn_metrics_hourly) == {hour}
    assert records.instance.get_latest_materialization_event(champion_model.key) is not None
    events = records.connection.execute("select distinct run_id from dagster.event_logs").fetchall()
    assert {run_id for (run_id,) in events} == records.runs()


def test_the_logs_of_a_run_are_deleted_with_it(records: Records) -> None:
    run = records.run("none", dg.DagsterRunStatus.FAILURE, days=15)
    manager = records.instance.compute_log_manager
    assert isinstance(manager, LocalComputeLogManager)
    log = Path(manager.get_captured_local_path([run, "compute_logs", "step"], "err"))
    log.parent.mkdir(parents=True)
    log.write_text("a line")

    records.prune_runs()

    assert not log.parent.parent.exists()
    assert records.runs() == set()


def test_old_observations_are_deleted_except_the_latest(records: Records) -> None:
    for _ in range(3):
        records.instance.report_runless_asset_event(dg.AssetObservation("customer_events", metadata={"lag": 1}))
    records.instance.report_runless_asset_event(dg.AssetObservation("churn_predictions_topic", metadata={"lag": 1}))
    records.age("", 15)

    assert records.prune_runs()["events_without_run"] == 2
    assert records.count("event_logs") == 2


def test_a_backlog_is_deleted_until_the_budget_is_used_up(records: Records) -> None:
    keys = [records.batch(days=20 - number / 10) for number in range(5)]
    clock = itertools.count()  # a second passes between two checks
    two_steps = Budget(3, clock=lambda: next(clock))

    assert records.prune_partitions(budget=two_steps, step_size=2) == {
        "partitions": 4,
        "runs": 0,
        "partitions_left_for_next_time": 1,
    }
    assert records.keys() == keys[4:]


def test_old_ticks_are_deleted_except_the_last_of_each_sensor(records: Records) -> None:
    for days in (30, 20, 1):
        add_tick(records, "stream", days)
    for days in (40, 30):
        add_tick(records, "idle", days)

    assert prune_ticks(records.instance, before=BEFORE, budget=Budget(ENOUGH)) == {"ticks": 3}

    left = [records.instance.get_ticks(f"origin of {name}", f"selector of {name}") for name in ("stream", "idle")]
    assert [[round((NOW.timestamp() - tick.timestamp) / 86400) for tick in ticks] for ticks in left] == [[1], [30]]


def test_the_job_runs_every_step_and_reports_its_figures(records: Records) -> None:
    created_topics.create_missing(admin_client(settings().kafka_client), KafkaResource().stream())
    records.materialize(churn_predictions, records.batch(days=15), days=15)
    records.run("none", dg.DagsterRunStatus.FAILURE, days=15)
    add_tick(records, "stream", 20)
    add_tick(records, "stream", 19)

    result = defs.resolve_job_def("maintenance_job").execute_in_process(instance=records.instance)

    reported = {
        event.step_key: {name: value.value for name, value in event.step_output_data.metadata.items()}
        for event in result.filter_events(lambda event: event.is_successful_output)
    }
    assert reported == {
        "prune_partitions": {"partitions": 1, "runs": 1, "partitions_left_for_next_time": 0},
        "prune_runs": {
            "runs": 1,
            "events_without_run": 0,
            "runs_kept_for_their_materializations": 0,
            "runs_left_for_next_time": 0,
        },
        "prune_ticks": {"ticks": 1},
        "archive_predictions": {"files": 0, "batches": 0, "rows": 0},
        "prune_monitoring": {
            "drift_rows": 0,
            "outcomes": 0,
            "refused": 0,
            "readings": 0,
            "shadow_predictions": 0,
            "reports": 0,
        },
        "prune_spark_attempts": {"attempts": 0},
    }
    assert records.runs() == {result.run_id}


def test_the_job_succeeds_before_there_is_a_topic(records: Records) -> None:
    assert defs.resolve_job_def("maintenance_job").execute_in_process(instance=records.instance).success


def status(records: Records) -> set[str]:
    """Return the partitions that the asset page shows as materialized."""
    value = get_and_update_asset_status_cache_value(
        records.instance, churn_predictions.key, batches, dynamic_partitions_loader=records.instance
    )
    assert value is not None
    subset = value.deserialize_materialized_partition_subsets(batches)
    return set(subset.get_partition_keys())


def add_tick(records: Records, name: str, days: float) -> None:
    """Add a tick of a sensor that is this many days old."""
    records.instance.create_tick(
        TickData(
            instigator_origin_id=f"origin of {name}",
            instigator_name=name,
            instigator_type=InstigatorType.SENSOR,
            status=TickStatus.SUCCESS,
            timestamp=time.time() - days * 86400,
            selector_id=f"selector of {name}",
            run_ids=[],
        )
    )
