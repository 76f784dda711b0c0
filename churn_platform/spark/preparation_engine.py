"""Preparation with Spark: a job file and a command for each order. How the command is started is the caller's."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from churn_platform.errors import PlatformError
from churn_platform.files.artifacts import claim, delete_folder, find_files, join, list_names
from churn_platform.spark.job_file import job_file
from churn_platform.spark.preparation_order import FileRead, PreparationOrder
from churn_platform.spark.submit import PREPARATION, SparkConfig, command, environment

STAGING: Final = ".spark"
"""Folder of parts among the files of assets, where the erasure of a customer finds them."""
# The parts of a run that was killed. A run of a batch job is ended after four hours: see orchestration/retries.py.
LEFT_BEHIND: Final = timedelta(hours=6)

Run = Callable[[Sequence[str], Mapping[str, str]], Sequence[Any]]
"""Runs a command with more environment variables to its end, and returns the messages that it has reported."""


class PreparationFailedError(PlatformError):
    """Spark has not prepared the customers. No file of an asset was replaced, or only some were."""


def prepare(order: PreparationOrder, spark: SparkConfig, run: Run) -> FileRead | None:
    """Let Spark carry out an order, and return what the customers file is, if the order's step reads it.

    Args:
        order: what is prepared.
        spark: how Spark is started.
        run: runs the driver.

    Raises:
        SparkMissingError: Spark is not installed where the settings say.
        PreparationFailedError: the step has failed, as it would have without Spark, or the driver has.
    """
    spark.require_installed()
    try:
        with job_file(order.to_json()) as file:
            messages = run(command(spark, PREPARATION, file, name=f"churn {order.step.value}"), environment(spark))
    finally:
        delete_folder(order.staging)
    for message in messages:
        if "error" in message:
            raise PreparationFailedError(**{"problem": "", **message["error"]})
    if not messages:
        raise PreparationFailedError(
            f"Spark's driver has ended without a result of step {order.step.value!r}.",
            remedy="Read stdout and stderr of this run, which have its log.",
        )
    read = messages[-1]["file"]
    return None if read is None else FileRead.from_json(read)


def new_staging(root: str, assets: str, name: str, *, now: datetime | None = None) -> str:
    """Return the folder for the parts of an order, after deleting those that runs have left behind.

    Args:
        root: the artifacts root.
        assets: its folder of the assets' files.
        name: of the order, unlike that of any other.
        now: the current time; None for the clock's.
    """
    claim(root)
    staging, latest = join(assets, STAGING), (now or datetime.now(UTC)) - LEFT_BEHIND
    for each in list_names(staging):
        folder = join(staging, each)
        if all(file.modified < latest for file in find_files(f"{folder}/")):
            delete_folder(folder)
    return join(staging, name)
