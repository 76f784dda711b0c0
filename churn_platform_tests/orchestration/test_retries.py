"""Which errors of a step are retried within its run, and that each job says how it is retried and when it ends."""

from collections.abc import Callable

import dagster as dg
import pandas as pd
import psycopg
import pytest

from churn_platform.database.connections import connect
from churn_platform.definitions import build_defs
from churn_platform.files.exceptions import ArtifactNotFoundError, ArtifactStoreUnreachableError
from churn_platform.local.ports import HOST
from churn_platform.orchestration.io_managers.parquet import ParquetIOManager
from churn_platform.orchestration.resources.mlflow import MlflowError, is_outage
from churn_platform.orchestration.retries import STEP_RETRIES, retry_transient_errors
from churn_platform.settings import Settings
from churn_platform_tests.files.s3_server import Server

NOBODY = f"postgresql://churn@{HOST}:1/churn"
AT_ONCE = dg.RetryPolicy(max_retries=2, delay=0.01)


def run(body: Callable[[int], None]) -> tuple[dg.ExecuteInProcessResult, int]:
    """Run an asset whose body gets the number of its attempt. Return the result and how often it ran."""
    attempts = 0

    @dg.asset
    def asset() -> None:
        nonlocal attempts
        attempts += 1
        with retry_transient_errors(AT_ONCE):
            body(attempts)

    return dg.materialize([asset], raise_on_error=False), attempts


def no_database(_: int) -> None:
    """Ask a PostgreSQL that is not there."""
    connect(NOBODY, application_name="test")


def test_a_step_runs_again_until_its_server_answers() -> None:
    def body(attempt: int) -> None:
        if attempt < 3:
            no_database(attempt)

    result, attempts = run(body)

    assert (result.success, attempts) == (True, 3)
    retries = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_UP_FOR_RETRY]
    assert len(retries) == 2


def test_a_server_that_stays_away_ends_the_run() -> None:
    result, attempts = run(no_database)

    assert (result.success, attempts) == (False, AT_ONCE.max_retries + 1)


@pytest.mark.parametrize(
    "error",
    [
        ArtifactNotFoundError("There is no file."),
        psycopg.errors.UndefinedTable("There is no such table."),
        ValueError("This is not a number."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_a_retry_does_not_mend_is_not_retried(error: Exception) -> None:
    def body(_: int) -> None:
        raise error

    result, attempts = run(body)

    assert (result.success, attempts) == (False, 1)


def test_pauses_grow_and_differ() -> None:
    pauses = [[STEP_RETRIES.calculate_delay(attempt) for attempt in range(1, 6)] for _ in range(50)]

    assert all(pause >= 0 for row in pauses for pause in row)
    assert len({row[0] for row in pauses}) > 1
    assert all(row[index] < row[index + 2] for row in pauses for index in range(3))
    assert 500 < sum(map(sum, pauses)) / len(pauses) < 640  # seconds that a server may be away


def test_a_file_is_stored_once_s3_answers_again(s3: Server, s3_root: str) -> None:
    @dg.asset(io_manager_key="io_manager")
    def frame() -> pd.DataFrame:
        return pd.DataFrame({"a": [1]})

    @dg.asset
    def downstream(frame: pd.DataFrame) -> None:
        assert len(frame) == 1

    class Later(ParquetIOManager):
        """Starts the server again when it was asked once."""

        def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:  # type: ignore[override]
            try:
                super().handle_output(context, obj)
            except dg.RetryRequested as retry:
                causes.append(retry.__cause__)
                s3.start()
                raise dg.RetryRequested(max_retries=1) from retry  # at once

    causes: list[BaseException | None] = []
    s3.stop()
    result = dg.materialize([frame, downstream], resources={"io_manager": Later(root=s3_root)}, raise_on_error=False)

    assert result.success
    assert [type(cause) for cause in causes] == [ArtifactStoreUnreachableError]


@pytest.mark.parametrize(("code", "expected"), [("INTERNAL_ERROR", True), ("INVALID_PARAMETER_VALUE", False)])
def test_an_mlflow_that_does_not_answer_is_an_outage(code: str, *, expected: bool) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos import databricks_pb2

    cause = MlflowException("no", error_code=databricks_pb2.ErrorCode.Value(code))
    error = MlflowError("MLflow failed.")
    error.__cause__ = cause

    assert is_outage(cause) is is_outage(error) is expected


@pytest.fixture(scope="module")
def jobs() -> dict[str, dg.JobDefinition]:
    """Every job of the code location."""
    defs = build_defs(Settings())
    return {job.name: job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}


def test_every_job_says_when_its_run_hangs_and_only_the_stream_may_last(jobs: dict[str, dg.JobDefinition]) -> None:
    limits = {name: job.run_tags["dagster/max_runtime"] for name, job in jobs.items()}

    assert limits.pop("prediction_stream_job") == "0"  # no limit
    assert set(limits.values()) == {"1800", "14400"}


def test_runs_that_nobody_requests_again_are_retried(jobs: dict[str, dg.JobDefinition]) -> None:
    retried = {name for name, job in jobs.items() if job.run_tags["dagster/max_retries"] != "0"}

    assert retried == {
        "data_preparation_job",
        "training_job",
        "retraining_job",
        "customer_scoring_job",
        "retention_effect_job",
        "shadow_comparison_job",
    }
