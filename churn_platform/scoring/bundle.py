"""The model bundle: everything that turns raw rows into P(churn), as plain data in one folder, verified when loaded.

Needs numpy and xgboost only (for a bundle in S3 also boto3), so that a process that scores starts fast. Nothing in a
bundle is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import FEATURES, Columns
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.exceptions import MetadataError
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.features.transform import FeatureTransform
from churn_platform.files.artifacts import join, read_bytes, write_bytes
from churn_platform.files.exceptions import ArtifactNotFoundError
from churn_platform.modeling.exceptions import BundleFormatError, BundleIncompleteError, BundleTamperedError, SkewError
from churn_platform.modeling.threshold import CallCosts
from churn_platform.scoring.booster import booster_from_bytes, import_xgboost, predict
from churn_platform.scoring.calibration import Calibration, calibration_from_json, calibration_to_json

if TYPE_CHECKING:
    import xgboost

MODEL, IMPUTER, ENCODER, SCALER = "model.ubj", "imputer.json", "encoder.json", "scaler.json"
REQUIRED = (MODEL, IMPUTER, ENCODER, SCALER)
CALIBRATION = "calibration.json"  # only where the model's own probabilities were not good enough
MANIFEST = "manifest.json"
_REMEDY = "Materialize churn_model and champion_model again, or promote another version."


@dataclass(frozen=True)
class ModelBundle:
    """A trained model with its fitted feature steps.

    Attributes:
        model: XGBoost's UBJ bytes of a binary:logistic model over FEATURES.
        transform: the fitted imputer, encoder and scaler.
        threshold: P(churn) from which the prediction is "churn", 0..1.
        metrics: name -> value, as measured out of fold on the training split.
        code_version: git commit, or the package's version, that trained it.
        data_hash: SHA-256 of the raw columns and outcomes that it was trained on.
        calibration: applied to the model's probabilities; None leaves them as they are.
        costs: what the threshold was chosen by; None: by F1.
    """

    model: bytes
    transform: FeatureTransform
    threshold: float
    metrics: Mapping[str, float]
    code_version: str
    data_hash: str
    calibration: Calibration | None = None
    costs: CallCosts | None = None

    @cached_property
    def booster(self) -> xgboost.Booster:
        """The model, read from its bytes once.

        Raises:
            BundleFormatError: XGBoost cannot read the bytes, or they are a model of other features.
        """
        try:
            booster = booster_from_bytes(self.model)
        except import_xgboost().core.XGBoostError as error:
            raise BundleFormatError(
                f"XGBoost cannot read the {len(self.model)} bytes of {MODEL}: {error}. {_REMEDY}"
            ) from error
        if booster.num_features() != len(FEATURES):
            raise BundleFormatError(
                f"{MODEL} reads {booster.num_features()} features, expected the {len(FEATURES)} of FEATURES. {_REMEDY}"
            )
        return booster

    def score(self, columns: Columns, threads: int = 1) -> NDArray[np.float32]:
        """P(churn) of raw rows.

        Args:
            columns: raw column name -> shape (n,), as `FeatureTransform.transform` takes them.
            threads: threads of XGBoost.

        Returns:
            shape (n,), 0..1.

        Raises:
            FeatureError: a column is missing or a value has no feature.
        """
        return self.score_features(self.transform.transform(columns), threads=threads)

    def score_features(self, matrix: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
        """P(churn) of finished features: shape (n, 14), in the order of FEATURES, to shape (n,), 0..1."""
        probabilities = predict(self.booster, matrix, threads=threads)
        return probabilities if self.calibration is None else self.calibration.apply(probabilities)

    def require_same_scores(self, probabilities: NDArray[np.float32], matrix: NDArray[np.float32]) -> None:
        """Make sure that features prepared step by step score as the raw rows of the same customers did.

        Args:
            probabilities: shape (n,), what `score` gave for the raw rows.
            matrix: shape (n, 14), the prepared features, in the order of FEATURES.

        Raises:
            SkewError: a score differs, by however little, or there are more rows of one than of the other.
        """
        prepared = self.score_features(matrix)
        if np.array_equal(prepared, probabilities):
            return
        raise SkewError(
            f"{len(probabilities)} raw rows and {len(prepared)} rows of prepared features do not score alike, "
            f"expected equal scores row by row. They are of different runs: materialize the preparation group and "
            f"churn_model again."
        )

    def parts(self) -> dict[str, bytes]:
        """File name -> bytes of every part, manifest included; equal bundles have equal bytes."""
        parts = {
            MODEL: self.model,
            IMPUTER: self.transform.imputer.to_json().encode(),
            ENCODER: self.transform.encoder.to_json().encode(),
            SCALER: self.transform.scaler.to_json().encode(),
        }
        if self.calibration is not None:
            parts[CALIBRATION] = calibration_to_json(self.calibration).encode()
        manifest = {
            "features": list(FEATURES),
            "threshold": self.threshold,
            "costs": None if self.costs is None else asdict(self.costs),
            "metrics": dict(self.metrics),
            "code_version": self.code_version,
            "data_hash": self.data_hash,
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()},
        }
        return {**parts, MANIFEST: json.dumps(manifest, indent=2).encode()}

    def save(self, uri: str) -> None:
        """Write the bundle into a folder of its own, local or s3://, the manifest last: a bundle with one is whole."""
        for name, content in self.parts().items():
            write_bytes(join(uri, name), content)

    @classmethod
    def load(cls, uri: str) -> ModelBundle:
        """The bundle saved at `uri`, each part verified and the model read, so that scoring can start at once.

        Raises:
            BundleIncompleteError: the manifest or a part is not there.
            BundleTamperedError: a part's SHA-256 is not the manifest's.
            BundleFormatError: a part cannot be read or belongs to other features.
            ArtifactStoreError: the bundle is in S3, which refuses, or cannot be reached.
        """
        try:
            manifest = json.loads(_read(uri, MANIFEST))
            expected = {str(name): str(digest) for name, digest in manifest["sha256"].items()}
            strange = sorted(set(expected) - {*REQUIRED, CALIBRATION})
            features = tuple(manifest["features"])
            parts = {name: _verified(uri, name, expected.get(name)) for name in REQUIRED}
            calibration = _verified(uri, CALIBRATION, expected[CALIBRATION]) if CALIBRATION in expected else None
            bundle = cls(
                model=parts[MODEL],
                transform=FeatureTransform(
                    imputer=Imputer.from_json(parts[IMPUTER].decode()),
                    encoder=OneHotEncoder.from_json(parts[ENCODER].decode()),
                    scaler=MinMaxScaler.from_json(parts[SCALER].decode()),
                ),
                threshold=float(manifest["threshold"]),
                metrics={str(name): float(value) for name, value in manifest["metrics"].items()},
                code_version=str(manifest["code_version"]),
                data_hash=str(manifest["data_hash"]),
                calibration=None if calibration is None else calibration_from_json(calibration.decode()),
                costs=None if manifest["costs"] is None else CallCosts(**manifest["costs"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, MetadataError) as error:
            raise BundleFormatError(f"The bundle at {uri} cannot be read: {error!r}. {_REMEDY}") from error
        if strange:
            raise BundleFormatError(
                f"The bundle at {uri} lists parts that this version of the platform does not know: "
                f"{', '.join(strange)}. {_REMEDY}"
            )
        if features != FEATURES:
            raise BundleFormatError(
                f"The bundle at {uri} was trained on the features {', '.join(features)}; "
                f"this version of the platform makes {', '.join(FEATURES)}. {_REMEDY}"
            )
        bundle.booster  # noqa: B018  read now: a bundle that cannot score must fail here, not at the first event
        return bundle


def _read(uri: str, name: str) -> bytes:
    try:
        return read_bytes(join(uri, name))
    except ArtifactNotFoundError as error:
        raise BundleIncompleteError(
            f"The bundle at {uri} has no {name}: it was moved or never finished. {_REMEDY}"
        ) from error


def _verified(uri: str, name: str, expected: str | None) -> bytes:
    content = _read(uri, name)
    got = hashlib.sha256(content).hexdigest()
    if got != expected:
        raise BundleTamperedError(
            f"{name} of the bundle at {uri} was changed after it was saved: its SHA-256 is {got}, "
            f"the manifest says {expected}. {_REMEDY}"
        )
    return content
