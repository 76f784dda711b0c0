"""A regular stop of the stack."""

import psycopg
import pytest

from churn_platform.local.environment import ARTIFACTS_VARIABLE
from churn_platform_tests.end_to_end.running import running_platform
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until

STREAMING_RUNS = "select run_id, status from dagster.runs where pipeline_name = 'prediction_stream_job'"
EVENTS = 200


@pytest.mark.slow
def test_live_streaming_runs_end_as_canceled_when_the_stack_is_stopped(embedded_only: dict[str, str]) -> None:
    given = {name: value for name, value in embedded_only.items() if name != ARTIFACTS_VARIABLE}
    with running_platform(given | {"BATCH_SECONDS": "600"}) as running:
        running.launch("data_preparation_job")
        running.launch("training_job")
        running.send([event(number) for number in range(EVENTS)])
        wait_until(lambda: running.events_read() == EVENTS, 120, "the events to be read")
        wait_until(
            lambda: [status for _, status in running.rows(STREAMING_RUNS)] == ["STARTED", "STARTED"],
            60,
            "the standby to be started in addition to the live run",
        )
        live = {run_id for run_id, _ in running.rows(STREAMING_RUNS)}

        assert running.stack.stop()

        with running.stack.only("postgres") as server, psycopg.connect(server.addresses["postgres"]) as connection:
            ended: dict[str, str] = dict(connection.execute(STREAMING_RUNS).fetchall())
        assert ended == dict.fromkeys(live, "CANCELED")
