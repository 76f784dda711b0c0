"""One step of data preparation, training or scoring in a separate process, which shows its memory: see batch.py."""

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
TRAINED_CUSTOMERS: Final = 10_000  # of the model that scores a file, as many as the default customers file has
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


def train_and_evaluate(_: int) -> None:
    """Run the training job on the prepared customers, as a launched run does. Raises if it fails."""
    import dagster as dg

    with dg.DagsterInstance.ephemeral() as instance:
        dg.execute_job(dg.reconstructable(training), instance, raise_on_error=True)


def training() -> "dg.JobDefinition":
    """Return the job of the code location."""
    from churn_platform.definitions import defs

    return defs.resolve_job_def("training_job")


def train(_: int) -> None:
    """Fit the model on the prepared training split, with its folds and its threshold, from disk after Spark."""
    from churn_platform.features.transform import take_features
    from churn_platform.files.artifacts import join
    from churn_platform.files.memory import release_unused_memory
    from churn_platform.files.parquet import read_parquet
    from churn_platform.files.stored_frame import StoredFrame
    from churn_platform.modeling import training as fits
    from churn_platform.modeling.stored_features import StoredFeatures
    from churn_platform.schema.current import schema_of
    from churn_platform.settings import settings

    schema = schema_of(settings())
    uri = join(settings().platform.artifacts_root, "assets", "train_features.parquet")
    features: fits.Features
    if settings().spark.prepares == "spark":
        stored = StoredFrame(uri)
        features, churned = StoredFeatures(stored, schema.feature_names), stored[schema.target].to_numpy()
    else:
        with Path(uri).open("rb") as file:
            rows = read_parquet(file)
        features, churned = take_features(rows, schema.feature_names), rows[schema.target].to_numpy()
        del rows
    release_unused_memory()
    fits.train(features, churned, schema)


def bundle(_: int) -> None:
    """Train a model on TRAINED_CUSTOMERS generated customers and save its bundle, for the scoring of a file."""
    import numpy as np
    import pandas as pd

    from churn_platform.features.cleaning import clean
    from churn_platform.features.columns import columns_of
    from churn_platform.features.encoding import OneHotEncoder
    from churn_platform.features.imputing import Imputer
    from churn_platform.features.scaling import MinMaxScaler
    from churn_platform.features.transform import FeatureTransform
    from churn_platform.model_store import save_bundle
    from churn_platform.modeling import training as fits
    from churn_platform.schema.current import schema_of
    from churn_platform.schema.generator import generate_customers
    from churn_platform.scoring.bundle import ModelBundle
    from churn_platform.settings import settings

    schema = schema_of(settings())
    rows = clean(generate_customers(TRAINED_CUSTOMERS, SEED), schema)
    imputer = Imputer.fit(rows, schema)
    imputed = pd.DataFrame(imputer.impute(columns_of(rows, schema.feature_columns)))
    transform = FeatureTransform(
        schema=schema,
        imputer=imputer,
        encoder=OneHotEncoder.fit(imputed, schema),
        scaler=MinMaxScaler.fit(imputed, schema),
    )
    churned = rows[schema.target].to_numpy(np.int64)
    trained = fits.train(transform.transform(columns_of(rows, schema.feature_columns)), churned, schema)
    found = ModelBundle(
        model=trained.model,
        transform=transform,
        threshold=trained.threshold,
        metrics={},
        code_version="benchmark",
        data_hash="",
        calibration=trained.calibration.calibration,
    )
    save_bundle(found, _bundle_uri())


def score_to_csv(_: int) -> None:
    """Score the customers file to CSV, as `churn score` does."""
    _score("scores.csv")


def score_to_parquet(_: int) -> None:
    """Score the customers file to Parquet, as `churn score` does."""
    _score("scores.parquet")


def _score(name: str) -> None:
    from churn_platform.file_scoring.output import write_scores
    from churn_platform.file_scoring.scoring import score_file
    from churn_platform.files.artifacts import join
    from churn_platform.model_store import load_bundle
    from churn_platform.schema.current import customers_of, schema_of
    from churn_platform.settings import settings
    from churn_platform.stream.scoring import Champion

    schema = schema_of(settings())
    champion = Champion(1, load_bundle(_bundle_uri()))
    threshold = settings().retention.high_risk_threshold
    with score_file(customers_of(settings()), schema, champion, high_risk_threshold=threshold) as scored:
        write_scores(scored, schema, join(settings().platform.artifacts_root, name))


def _bundle_uri() -> str:
    from churn_platform.files.artifacts import MODELS, join
    from churn_platform.settings import settings

    return join(settings().platform.artifacts_root, MODELS, "benchmark")


STEPS: Final[dict[str, Callable[[int], None]]] = {
    "generate": generate,
    "prepare": prepare,
    "train": train,
    "train and evaluate": train_and_evaluate,
    "bundle": bundle,
    "score to CSV": score_to_csv,
    "score to Parquet": score_to_parquet,
}


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
