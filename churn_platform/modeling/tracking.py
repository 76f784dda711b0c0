"""What MLflow keeps of a training besides figures: the model of raw rows, its signature and its training rows."""

from __future__ import annotations

import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import churn_platform
from churn_platform.features.columns import INPUT_COLUMNS, TARGET
from churn_platform.schema.columns import COLUMNS_BY_NAME

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

    from churn_platform.scoring.bundle import ModelBundle

PACKAGE = Path(churn_platform.__file__).parent
EXAMPLE_ROWS = 5


def log_model(bundle: ModelBundle, *, registered_as: str, example: pd.DataFrame, tags: dict[str, str]) -> int:
    """Log the bundle to the active MLflow run as a pyfunc of raw rows, with all code it needs, and register it.

    Args:
        bundle: the trained model.
        registered_as: name of the registered model.
        example: raw rows; the first few become the input example.
        tags: of the registered version.

    Returns:
        The new version of the registered model.
    """
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        bundle.save(folder)
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PACKAGE / "modeling" / "pyfunc_model.py"),
            artifacts={"bundle": folder},
            code_paths=[str(PACKAGE)],
            signature=signature(),
            input_example=example[list(INPUT_COLUMNS)].head(EXAMPLE_ROWS),
            registered_model_name=registered_as,
            pip_requirements=requirements(),
            metadata={"columns": {name: COLUMNS_BY_NAME[name].allowed_when_scored for name in INPUT_COLUMNS}},
        )
    number = logged.registered_model_version
    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(registered_as, str(number), key, value)
    return int(number)


def signature() -> ModelSignature:
    """Raw columns in, `probability` (float) and `prediction` (long) out.

    The columns have no types here: MLflow would refuse an integer Age or a float CreditScore of 545.0 before the model
    sees it. The model casts what loses nothing and judges the rest (`modeling/frames.py`).
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), name) for name in INPUT_COLUMNS]),  # type: ignore[no-untyped-call]
        outputs=Schema([ColSpec(DataType.float, "probability"), ColSpec(DataType.long, "prediction")]),
    )


def log_dataset(rows: pd.DataFrame, *, source: str) -> None:
    """Note in the active MLflow run which rows it learned from.

    Args:
        rows: the training split, raw columns and target.
        source: where the raw file lies.
    """
    import mlflow
    from mlflow.data.pandas_dataset import from_pandas

    columns = [*INPUT_COLUMNS, TARGET]
    dataset = from_pandas(rows[columns], source=source, targets=TARGET, name="training_split")
    mlflow.log_input(dataset, context="training")


def requirements() -> list[str]:
    """What scoring needs, at the versions that trained. MLflow would have to run the model to find out by itself."""
    packages = ["numpy", "pandas", _xgboost_package()]
    return [f"{package}=={version(package)}" for package in packages]


def _xgboost_package() -> str:
    try:
        version("xgboost-cpu")
    except PackageNotFoundError:
        return "xgboost"
    return "xgboost-cpu"
