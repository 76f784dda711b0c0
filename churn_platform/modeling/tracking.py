"""What a training logs to MLflow besides metrics: the pyfunc model, its signature and its training rows.

A logged model ships only the code that scores: SHIPPED_CODE lists it.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

import churn_platform
from churn_platform.model_store import save_bundle

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

    from churn_platform.files.stored_frame import Frame
    from churn_platform.schema.columns import Column
    from churn_platform.schema.customer_schema import CustomerSchema
    from churn_platform.scoring.bundle import ModelBundle

PACKAGE: Final = Path(churn_platform.__file__).parent
PYFUNC_MODEL: Final = PACKAGE / "modeling" / "pyfunc_model.py"
# Everything that pyfunc_model.py imports of the platform, directly or not: 23 of some 200 modules.
SHIPPED_CODE: Final = (
    "__init__.py",
    "errors.py",
    "features",
    "schema/__init__.py",
    "schema/columns.py",
    "schema/customer_schema.py",
    "scoring",
)
EXAMPLE_ROWS: Final = 5
DATASET_ROWS: Final = 10_000  # MLflow's digest of a data set is that of as many rows


def log_model(bundle: ModelBundle, *, registered_as: str, example: Frame, tags: dict[str, str]) -> int:
    """Log the bundle to the active MLflow run as a pyfunc of raw rows, with the code it needs, and register it.

    Args:
        bundle: the trained model.
        registered_as: name of the registered model.
        example: raw rows; the input example mixes the values of some.
        tags: tags of the registered version.

    Returns:
        The new version of the registered model.
    """
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        bundle_folder, code = f"{folder}/bundle", Path(folder, "code")
        save_bundle(bundle, bundle_folder)
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(PYFUNC_MODEL),
            artifacts={"bundle": bundle_folder},
            code_paths=[str(copy_scoring_code(code))],
            signature=signature(bundle.schema),
            input_example=_as_json_has_them(example_rows(example, bundle.schema), bundle.schema),
            registered_model_name=registered_as,
            pip_requirements=requirements(),
            metadata={"columns": {each.name: each.allowed_when_scored for each in _columns(bundle.schema)}},
        )
    number = logged.registered_model_version
    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(registered_as, str(number), key, value)
    return int(number)


def copy_scoring_code(folder: Path) -> Path:
    """Copy the code that scoring needs below `folder` and return the copied package's folder."""
    package = folder / PACKAGE.name
    for name in SHIPPED_CODE:
        source, target = PACKAGE / name, package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    return package


def signature(schema: CustomerSchema) -> ModelSignature:
    """Return the signature: raw columns in, `probability` (float) and `prediction` (long) out.

    The columns have no types here: MLflow would reject a whole number for a float column, or 545.0 for an integer one,
    before the model sees it. The model casts what can be cast without loss and rejects the rest (`scoring/frames.py`).
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), each.name, required=not each.optional) for each in _columns(schema)]),  # type: ignore[no-untyped-call]  # MLflow's
        outputs=Schema([ColSpec(DataType.float, "probability"), ColSpec(DataType.long, "prediction")]),
    )


def _columns(schema: CustomerSchema) -> list[Column]:
    """Return the columns that the model reads."""
    return [schema.column(name) for name in schema.feature_columns]


def example_rows(rows: Frame, schema: CustomerSchema) -> pd.DataFrame:
    """Return a few rows that are those of no customer: the values of each column are taken from other rows.

    MLflow keeps them with the model, where the erasure of a customer could not find a row without an id.
    """
    import pandas as pd

    count = min(EXAMPLE_ROWS, len(rows))
    return pd.DataFrame(
        {
            name: rows[name].iloc[(np.arange(count) + place * count) % len(rows)].array
            for place, name in enumerate(schema.feature_columns)
        }
    )


def _as_json_has_them(example: pd.DataFrame, schema: CustomerSchema) -> pd.DataFrame:
    """Return rows with their dates as JSON has them: texts (YYYY-MM-DD), or null."""
    for column in schema.dated:
        texts = example[column.name].dt.strftime("%Y-%m-%d").astype(object)
        example = example.assign(**{column.name: texts.where(texts.notna(), None)})
    return example


def log_dataset(rows: Frame, schema: CustomerSchema, *, source: str) -> None:
    """Record the training rows as an input of the active MLflow run.

    Args:
        rows: the training split, raw columns and target. Of a stored one, MLflow gets the first DATASET_ROWS.
        schema: the schema of the customers.
        source: path of the customers file.
    """
    import mlflow
    import pandas as pd
    from mlflow.data.pandas_dataset import from_pandas

    columns = [*schema.feature_columns, schema.target]
    first = rows[columns] if isinstance(rows, pd.DataFrame) else rows.head(DATASET_ROWS)[columns]
    dataset = from_pandas(first, source=source, targets=schema.target, name="training_split")
    mlflow.log_input(dataset, context="training")


def requirements() -> list[str]:
    """Return the packages that scoring needs, pinned to the versions that trained.

    MLflow could infer them only by running the model. It adds its own version itself.
    """
    packages = ["numpy", "pandas", _xgboost_package()]
    return [f"{package}=={version(package)}" for package in packages]


def _xgboost_package() -> str:
    try:
        version("xgboost-cpu")
    except PackageNotFoundError:
        return "xgboost"
    return "xgboost-cpu"
