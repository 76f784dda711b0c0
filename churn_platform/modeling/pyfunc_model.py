"""The model as MLflow serves it: raw rows in, P(churn) and prediction out. MLflow runs this file; nothing imports it.

MLflow stores this file as code beside the bundle ("models from code"), so that loading a model unpickles nothing. It
runs in environments that have only what tracking.py ships: it may import features/, scoring/ and the schema's classes.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from churn_platform.features.exceptions import FeatureError
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.frames import scorable_columns


class ChurnModel(PythonModel):
    """Scores raw rows with the bundle in the model's artifacts."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load and verify the bundle.

        Raises:
            BundleError: a part is missing, changed or unreadable.
        """
        folder = Path(context.artifacts["bundle"])
        parts = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.bundle = ModelBundle.from_parts(parts, origin=str(folder))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score raw rows.

        Args:
            context: MLflow's; not used.
            model_input: n rows with the raw columns that the model reads, of any dtypes that can be cast without loss.
                Other columns are ignored.
            params: not used.

        Returns:
            n rows: `probability`, P(churn) 0..1, and `prediction`, 1 where it reaches the bundle's threshold.

        Raises:
            MlflowException: a column is missing, or rows have values that the stream rejects as well. `mlflow models
                serve` answers with the text of this error.
        """
        del context, params
        try:
            probability = self.bundle.score(scorable_columns(model_input, self.bundle.schema))
        except FeatureError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        prediction = (probability >= self.bundle.threshold).astype(np.int64)
        return pd.DataFrame({"probability": probability, "prediction": prediction}, index=model_input.index)


mlflow.models.set_model(ChurnModel())
