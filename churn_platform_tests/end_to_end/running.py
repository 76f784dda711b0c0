"""A running platform under test: actions through Dagster's GraphQL API, and the contents of PostgreSQL and Kafka."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString, Self

import httpx
import psutil
import psycopg
from confluent_kafka import Producer
from dagster_graphql import DagsterGraphQLClient

from churn_platform.local.ports import ANY_FREE_PORTS
from churn_platform.local.stack import Stack
from churn_platform.operations.dagster_runs import Dagster, RunEvent
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform_tests.waiting import wait_until

CUSTOMERS = 1_500
EVENTS_TOPIC = "customer-events"
LOCATION = {"repositoryLocationName": "churn_platform", "repositoryName": "__repository__"}
START = "mutation ($s: ScheduleSelector!) { startSchedule(scheduleSelector: $s) { __typename } }"
STATES = """
    query ($s: ScheduleSelector!) {
        scheduleOrError(scheduleSelector: $s) { ... on Schedule { scheduleState { id selectorId } } }
    }
"""
STOP = "mutation ($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
RUNS = """
    query ($filter: RunsFilter!) {
        runsOrError(filter: $filter) { ... on Runs { results { runId status tags { key value } } } }
    }
"""


@contextmanager
def running_platform(given: Mapping[str, str], *, customers: int = CUSTOMERS) -> Iterator["Running"]:
    """Run a platform with a small customers file while the context lasts, then stop and delete it.

    Args:
        given: the environment, including settings.
        customers: number of rows of the customers file.
    """
    folder = Path(tempfile.mkdtemp(prefix="churn-platform-"))
    file = folder / "customers.csv"
    write_customers(generate_customers(customers, seed=5), file)
    stack = Stack(
        folder / "local",
        usual_ports=ANY_FREE_PORTS,
        given={**given, "CHURN_RAW_CSV": str(file)},
        env_file=Path(os.devnull),
    )
    with stack, Running(stack) as running:
        yield running
    shutil.rmtree(folder)


class Running:
    """A platform that a stack runs. As a context manager it closes its connections."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def __enter__(self) -> Self:
        self.connection = psycopg.connect(self.stack.addresses["postgres"], autocommit=True)
        host, _, port = self.stack.addresses["dagster"].removeprefix("http://").partition(":")
        self.dagster = DagsterGraphQLClient(host, port_number=int(port))
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    @property
    def customers(self) -> Path:
        """The customers file."""
        return self.stack.local.parent / "customers.csv"

    # Dagster

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        """Return the response of Dagster's GraphQL API."""
        url = f"{self.stack.addresses['dagster']}/graphql"
        answer = httpx.post(url, json={"query": query, "variables": variables}, timeout=30, trust_env=False).json()
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def start_schedule(self, name: str) -> None:
        """Turn a schedule on, as the switch in the UI does."""
        answer = self.graphql(START, s={**LOCATION, "scheduleName": name})
        assert answer["startSchedule"]["__typename"] == "ScheduleStateResult"

    def stop_schedule(self, name: str) -> None:
        """Turn a schedule off."""
        state = self.graphql(STATES, s={**LOCATION, "scheduleName": name})["scheduleOrError"]["scheduleState"]
        self.graphql(STOP, id=state["id"])

    def runs(self, job: str) -> list[dict[str, Any]]:
        """Return the runs of a job, newest first."""
        results: list[dict[str, Any]] = self.graphql(RUNS, filter={"pipelineName": job})["runsOrError"]["results"]
        return results

    def live_runs(self, job: str) -> list[dict[str, Any]]:
        """Return the unfinished runs of a job."""
        return [run for run in self.runs(job) if run["status"] not in ("SUCCESS", "FAILURE", "CANCELED")]

    def scheduled_runs(self, job: str) -> list[dict[str, Any]]:
        """Return the runs of a job that a schedule has launched."""
        return [run for run in self.runs(job) if any(tag["key"] == "dagster/schedule_name" for tag in run["tags"])]

    def wait_for_scheduled(self, job: str, *, timeout: float) -> None:
        """Wait until a run that a schedule has launched has succeeded. A failed run raises AssertionError."""

        def succeeded() -> bool:
            states = [run["status"] for run in self.scheduled_runs(job)]
            assert "FAILURE" not in states, self.stack.logs("code")
            return "SUCCESS" in states

        wait_until(succeeded, timeout, f"a scheduled {job} to succeed")

    def launch(self, job: str, partition: str | None = None) -> None:
        """Launch a job, for a partition if one is given, and wait until it has succeeded."""
        tags = None if partition is None else {"dagster/partition": partition}
        run_id = self.dagster.submit_job_execution(job, tags=tags)
        wait_until(lambda: self.dagster.get_run_status(run_id).value in ("SUCCESS", "FAILURE"), 300)
        assert self.dagster.get_run_status(run_id).value == "SUCCESS", self.stack.logs("code")

    def events_of(self, run_id: str) -> list[RunEvent]:
        """Return the events of a run until now."""
        return list(Dagster(self.stack.addresses["dagster"]).follow(run_id).read().events)

    def process_of(self, run_id: str) -> psutil.Process:
        """Return the process of a run that has started."""
        started = (
            re.search(r"Started process for run \(pid: (\d+)\)", each.message) for each in self.events_of(run_id)
        )
        (pid,) = (int(found[1]) for found in started if found)
        return psutil.Process(pid)

    def materialized_batches(self) -> set[str]:
        """Return the partitions of churn_predictions that the UI shows as materialized."""
        query = """{ assetNodeOrError(assetKey: {path: ["churn_predictions"]}) { ... on AssetNode {
            assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions } } } } }"""
        return set(self.graphql(query)["assetNodeOrError"]["assetPartitionStatuses"]["materializedPartitions"])

    # The stream

    def send(self, events: Sequence[dict[str, object] | bytes]) -> None:
        """Send events and wait until Kafka has them."""
        producer = Producer({"bootstrap.servers": self.stack.addresses["kafka"], "acks": "all"})
        for each in events:
            producer.produce(EVENTS_TOPIC, each if isinstance(each, bytes) else json.dumps(each).encode())
        assert producer.flush(30) == 0

    def rows(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(query, parameters).fetchall()

    def value(self, query: LiteralString, *parameters: object) -> Any:
        """Return the single value of a query."""
        ((value,),) = self.rows(query, *parameters)
        return value

    def events_read(self) -> int:
        """Return the number of events that the ledger has counted."""
        return int(self.value("select coalesce(sum(events), 0) from stream_batches"))

    def is_idle(self) -> bool:
        """Return whether every opened batch is closed and reported, and all metrics are up to date."""
        return not self.unfinished()

    def unfinished(self) -> list[str]:
        """Return what keeps the platform from being idle: batches, hours and days, with what is missing."""
        return [
            row[0]
            for row in self.rows(
                """
                select format('batch %%s is %%s', batch, case when closed is null then 'open' else 'not reported' end)
                from stream_batches where opened is not null and (closed is null or not reported)
                union all
                select format('hour %%s has version %%s of %%s', hour_timestamp, h.version, d.version)
                from dirty_hours d left join churn_metrics_hourly h using (hour_timestamp)
                where h.version is distinct from d.version
                union all
                select format('the days have versions up to %%s of %%s', days.sum, hours.sum)
                from (select coalesce(sum(version), 0) from churn_metrics_daily) as days (sum),
                    (select coalesce(sum(version), 0) from churn_metrics_hourly) as hours (sum)
                where days.sum <> hours.sum
                """
            )
        ]
