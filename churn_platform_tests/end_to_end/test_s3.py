"""A platform with its files in S3: none of them is stored locally, and the platform survives an outage of S3."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from churn_platform.files.artifacts import ARCHIVE, FOLDERS, REPORTS, join
from churn_platform.files.s3 import split, store
from churn_platform_tests.end_to_end.conftest import ROOT, SETTINGS
from churn_platform_tests.end_to_end.running import Running
from churn_platform_tests.files.s3_server import Server, client
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until

STATE = {
    *(".churn-platform", "dagster", "env", "kafka", "lock", "logs", "ports.json", "postgres", "run"),
    "worker.heartbeat",
}
LOG_FILES = """
    query ($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
        ... on LogsCapturedEvent { fileKey }
    } } } } }
"""
LOGS = "query ($key: [String!]!) { capturedLogs(logKey: $key) { stderr } }"


@contextmanager
def outage(server: Server) -> Iterator[None]:
    """Stop S3 while the context lasts."""
    server.stop()
    try:
        yield
    finally:
        server.start()


def retries_of(running: Running, run_id: str) -> list[str]:
    """Return the errors after which steps of a run are tried again."""
    return [event.error for event in running.events_of(run_id) if event.kind == "ExecutionStepUpForRetryEvent"]


def file_of(running: Running, run_id: str) -> str:
    """Return the file with the output of a run's first step."""
    events = running.graphql(LOG_FILES, id=run_id)["runOrError"]["eventConnection"]["events"]
    return next(str(found["fileKey"]) for found in events if found)


@pytest.mark.slow
def test_every_kind_of_file_is_in_s3_and_none_is_local(trained: Running) -> None:
    found = {folder: [each.uri for each in store().list_objects(join(ROOT, folder))] for folder in FOLDERS}

    assert join(ROOT, "assets", "train_features.parquet") in found["assets"]
    assert [uri for uri in found["models"] if uri.endswith("manifest.json")]
    assert [uri for uri in found["mlflow"] if uri.endswith("MLmodel")]
    assert [uri for uri in found["compute_logs"] if uri.endswith(".err")]
    local = trained.stack.local
    assert {path.name for path in local.iterdir() if not path.name.endswith(".password")} == STATE
    ended = {run["runId"] for run in trained.runs("training_job")}
    assert not [file for file in (local / "dagster").rglob("*") if file.is_file() and ended & set(file.parts)]


@pytest.mark.slow
def test_every_kind_of_file_is_encrypted_with_the_configured_key(
    trained: Running, s3: Server, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--s3-server") != "moto":
        pytest.skip("versitygw does not support KMS")
    assert trained.runs("training_job")
    for folder in set(FOLDERS) - {
        ARCHIVE,
        REPORTS,
    }:  # nothing to archive or to report yet
        bucket, key = split(next(store().list_objects(join(ROOT, folder))).uri)
        assert client(s3).head_object(Bucket=bucket, Key=key)["SSEKMSKeyId"] == SETTINGS["S3_KMS_KEY_ID"], key


@pytest.mark.slow
def test_the_ui_shows_the_output_of_a_step_from_s3(trained: Running) -> None:
    run_id = trained.runs("training_job")[-1]["runId"]

    shown = trained.graphql(LOGS, key=[run_id, "compute_logs", file_of(trained, run_id)])["capturedLogs"]["stderr"]

    assert "STEP_SUCCESS" in shown


@pytest.mark.slow
def test_a_run_waits_with_a_remedy_during_an_outage_of_s3_and_continues(trained: Running, s3: Server) -> None:
    with outage(s3):
        run = trained.dagster.submit_job_execution("training_job")
        wait_until(lambda: retries_of(trained, run), 120, "the training to be tried again")
    error = retries_of(trained, run)[0]
    assert "Start the S3 server, or correct AWS_ENDPOINT_URL_S3" in error
    assert s3.url in error

    wait_until(lambda: trained.dagster.get_run_status(run).value in ("SUCCESS", "FAILURE"), 240)
    assert trained.dagster.get_run_status(run).value == "SUCCESS", trained.stack.logs("code")


@pytest.mark.slow
def test_the_live_run_continues_during_an_outage_of_s3_and_succeeds(trained: Running, s3: Server) -> None:
    before = trained.events_read()
    trained.send([event(1)])
    wait_until(lambda: trained.events_read() == before + 1, 90, "a run to be live")
    ((batch, run),) = trained.rows(
        "select batch, run_id from stream_batches where opened is not null order by opened desc limit 1"
    )

    with outage(s3):
        trained.send([event(number) for number in range(50)])
        wait_until(lambda: trained.events_read() == before + 51, 60, "the events to be read")
        # The run ends, although its output cannot be stored in S3.
        wait_until(lambda: trained.dagster.get_run_status(run).value in ("SUCCESS", "FAILURE"), 60)
        assert trained.dagster.get_run_status(run).value == "SUCCESS"
        assert trained.graphql(LOGS, key=[run, "compute_logs", file_of(trained, run)])["capturedLogs"]["stderr"]

    wait_until(trained.is_idle, 120, "all batches to be closed and reported")
    assert batch in trained.materialized_batches()
