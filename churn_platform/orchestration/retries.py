"""Which errors of batch jobs are retried, and how often.

There are two kinds of retries. A step whose error is transient runs again in the same run, after a pause. A run whose
process was lost runs again from the step that it was in, as another run: see `BATCH_JOB`. No other error is retried: a
wrong file or a refused schema stays wrong.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import dagster as dg

from churn_platform.files.exceptions import ArtifactStoreUnreachableError
from churn_platform.orchestration.resources.mlflow import is_outage
from churn_platform.transience import is_transient

# Pauses of about 10, 30, 70, 150 and 310 s: a server may be away for nine minutes. The jitter keeps steps that failed
# together from asking it together again.
STEP_RETRIES: Final = dg.RetryPolicy(
    max_retries=5, delay=10, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
# A process that was lost twice, for example because memory ran out, will be lost again.
RUN_RETRIES: Final = 2
# Data preparation and training of ten million customers take 7 minutes on two cores, without a hyperparameter search.
MAX_BATCH_SECONDS: Final = 4 * 3600
# A window of metrics or monitoring takes seconds, and maintenance at most minutes.
MAX_WINDOW_SECONDS: Final = 30 * 60

NO_LIMIT: Final[Mapping[str, str]] = {"dagster/max_runtime": "0"}
"""Tags of a job whose runs are meant to last."""

BATCH_JOB: Final[Mapping[str, str]] = {
    "dagster/max_retries": str(RUN_RETRIES),
    "dagster/max_runtime": str(MAX_BATCH_SECONDS),
}
"""Tags of a job that someone or a schedule launches: nobody launches it again if it fails."""

WINDOW_JOB: Final[Mapping[str, str]] = {"dagster/max_retries": "0", "dagster/max_runtime": str(MAX_WINDOW_SECONDS)}
"""Tags of a job that a sensor launches until its result is there: another retry would be a second run."""


def in_asset() -> int:
    """Return how often the step has run before, in the body of an asset."""
    return int(dg.AssetExecutionContext.get().retry_number)


def in_io_manager(context: dg.InputContext | dg.OutputContext) -> Callable[[], int]:
    """Return a function that returns how often the step has run before, in an IO manager."""
    return lambda: context.step_context.previous_attempt_count


@contextmanager
def retry_transient_errors(
    policy: dg.RetryPolicy = STEP_RETRIES, *, attempts_before: Callable[[], int] = in_asset
) -> Iterator[None]:
    """Let Dagster run the step again, after a pause, if the block ends with a transient error.

    A policy of the op itself would retry every error, and would also run a step again that was canceled.

    Args:
        policy: how often, and after which pauses.
        attempts_before: returns how often the step has run before.

    Raises:
        RetryRequested: the error is transient. Dagster fails the step if it was retried often enough.
    """
    try:
        yield
    except Exception as error:
        if not (is_transient(error) or isinstance(error, ArtifactStoreUnreachableError) or is_outage(error)):
            raise
        pause = policy.calculate_delay(attempts_before() + 1)
        raise dg.RetryRequested(max_retries=policy.max_retries, seconds_to_wait=pause) from error
