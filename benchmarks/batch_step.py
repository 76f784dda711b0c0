"""One step of data preparation or training in a separate process, so that its memory can be measured: see batch.py."""

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import dagster as dg

SEED: Final = 42
KILOBYTES: Final = 1024  # in a MiB


def generate(customers: int) -> None:
    """Write the customers file (CHURN_RAW_CSV)."""
    from churn_platform.schema.current import customers_of
    from churn_platform.schema.generator import generate_customers, write_customers
    from churn_platform.settings import settings

    write_customers(generate_customers(customers, SEED), Path(customers_of(settings())))


def prepare(_: int) -> None:
    """Run the data preparation job with its checks, as a launched run does. Raises if it fails."""
    import dagster as dg

    with dg.DagsterInstance.ephemeral() as instance:
        dg.execute_job(dg.reconstructable(data_preparation), instance, raise_on_error=True)


def data_preparation() -> "dg.JobDefinition":
    """Return the job of the code location."""
    from churn_platform.definitions import defs

    return defs.resolve_job_def("data_preparation_job")


def train(_: int) -> None:
    """Fit the model on the prepared training split, with its folds and its threshold."""
    from churn_platform.features.transform import take_features
    from churn_platform.files.artifacts import join
    from churn_platform.files.memory import release_unused_memory
    from churn_platform.files.parquet import read_parquet
    from churn_platform.modeling import training
    from churn_platform.schema.current import schema_of
    from churn_platform.settings import settings

    schema = schema_of(settings())
    with Path(join(settings().platform.artifacts_root, "assets", "train_features.parquet")).open("rb") as file:
        rows = read_parquet(file)
    features = take_features(rows, schema.feature_names)
    release_unused_memory()
    training.train(features, rows[schema.target].to_numpy(), schema)


STEPS: Final[dict[str, Callable[[int], None]]] = {"generate": generate, "prepare": prepare, "train": train}


def main(step: str, customers: str) -> None:
    """Run a step and print its cost, including imports."""
    began = time.perf_counter()
    STEPS[step](int(customers))
    seconds = time.perf_counter() - began
    sys.stdout.write(json.dumps({"seconds": round(seconds, 2), "peak_mb": round(peak_mb())}) + "\n")


def peak_mb() -> float:
    """Return the peak resident memory of this process so far, in MiB.

    Linux's getrusage() also counts what the process was before its exec: as large as the one that started it.
    """
    if sys.platform == "linux":
        (found,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
        return int(found) / KILOBYTES
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KILOBYTES**2


if __name__ == "__main__":
    from benchmarks import batch_step  # imported by name, because a job in __main__ cannot be found by its run

    batch_step.main(*sys.argv[1:])
