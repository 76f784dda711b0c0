"""The stream's assets under test: sends events, runs jobs, and reads their materializations."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import psycopg
from confluent_kafka import Producer

from churn_platform.database import stream_batches
from churn_platform.definitions import defs
from churn_platform.orchestration.partitions import batch_key, batches
from churn_platform.orchestration.run_requests import RANGE_END_TAG, RANGE_START_TAG
from churn_platform.settings import settings


@dataclass
class Assets:
    """A stream and a Dagster instance. Batches are very short."""

    instance: dg.DagsterInstance
    connection: psycopg.Connection
    keys: list[str] = field(default_factory=list)

    def send(self, *values: dict[str, object] | bytes) -> None:
        """Send events."""
        producer = Producer({**settings().kafka_client, "acks": "all"})
        for value in values:
            payload = value if isinstance(value, bytes) else json.dumps(value).encode()
            producer.produce(settings().topics.events, payload)
        assert producer.flush(30) == 0

    def plan(self) -> str:
        """Plan a batch as the sensor does, and return its key."""
        key = batch_key(datetime.now(UTC))
        stream_batches.plan_batch(self.connection, key)
        self.instance.add_dynamic_partitions(str(batches.name), [key])
        return key

    def stream(self) -> tuple[str, dg.ExecuteInProcessResult]:
        """Stream all new events into a new batch, as the sensor's run does. Return its key and the run."""
        key = self.plan()
        return key, self.run("prediction_stream_job", partition_key=key)

    def run(
        self,
        job: str,
        *,
        partition_key: str | None = None,
        run_config: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a job to its end."""
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=partition_key, run_config=run_config, tags=tags
        )

    def run_window(self, job: str, first: str, last: str) -> dg.ExecuteInProcessResult:
        """Run a job over a range of partitions, as one run of a backfill does."""
        return self.run(job, tags={RANGE_START_TAG: first, RANGE_END_TAG: last})

    def tags(self, result: dg.ExecuteInProcessResult) -> dict[str, str]:
        """Return the tags of a run that the UI can search for."""
        run = self.instance.get_run_by_id(result.run_id)
        assert run is not None
        return {name: value for name, value in run.tags.items() if name.startswith("churn/")}

    def check(self) -> dg.AssetCheckEvaluation:
        """Return the latest result of the conservation check."""
        key = dg.AssetCheckKey(dg.AssetKey("churn_predictions"), "conservation")
        (record,) = self.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert record.evaluation is not None
        return record.evaluation


def materializations(result: dg.ExecuteInProcessResult, asset: str) -> dict[str | None, dict[str, object]]:
    """Return the metadata of an asset's materializations in a run by partition. Tables become lists of rows."""
    return {
        each.partition: {name: _plain(value) for name, value in each.metadata.items()}
        for each in (event.materialization for event in result.get_asset_materialization_events())
        if each.asset_key == dg.AssetKey(asset)
    }


def _plain(value: dg.MetadataValue[Any]) -> object:
    return [dict(row.data) for row in value.records] if isinstance(value, dg.TableMetadataValue) else value.value
