"""A trained model version, which the training assets pass to each other. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class TrainedModel:
    """A registered version, the MLflow run that trained it and the folder of its bundle.

    Attributes:
        version: number in the registry. Numbers start again with a new registry; runs do not.
        run_id: MLflow run.
        uri: absolute path or s3:// prefix of the bundle.
    """

    version: int
    run_id: str
    uri: str

    def to_json(self) -> str:
        """Return JSON of the attributes."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainedModel:
        """Return the model that `to_json` wrote."""
        return cls(**json.loads(text))
