"""The model bundle: everything that turns raw rows into P(churn), as plain data. Pure; no I/O.

A bundle is built from its parts (file name -> bytes) and verifies them. model_store.py reads and writes the parts.
Nothing in a bundle is pickled. The module needs only numpy and xgboost, so that a process that scores starts fast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.columns import Columns
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.exceptions import MetadataError
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.features.transform import FeatureTransform
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.booster import booster_from_bytes, import_xgboost, predict
from churn_platform.scoring.calibration import Calibration, calibration_from_json, calibration_to_json
from churn_platform.scoring.costs import CallCosts
from churn_platform.scoring.exceptions import BundleFormatError, BundleIncompleteError, BundleTamperedError, SkewError

if TYPE_CHECKING:
    import xgboost

MODEL, IMPUTER, ENCODER, SCALER = "model.ubj", "imputer.json", "encoder.json", "scaler.json"
SCHEMA = "schema.json"  # its SHA-256 is the schema's fingerprint
REQUIRED = (MODEL, IMPUTER, ENCODER, SCALER, SCHEMA)
CALIBRATION = "calibration.json"  # only in bundles whose model needs its probabilities calibrated
MANIFEST = "manifest.json"
_REMEDY = "Materialize churn_model and champion_model again, or promote another version."
# What reading malformed JSON, or JSON of another shape, raises.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, MetadataError)


@dataclass(frozen=True)
class ModelBundle:
    """A trained model with its fitted feature steps.

    Attributes:
        model: XGBoost's UBJ bytes of a binary:logistic model over the schema's features.
        transform: the customer schema and the fitted imputer, encoder and scaler.
        threshold: P(churn) from which the prediction is "churn", 0..1.
        metrics: name -> value, measured out of fold on the training split.
        code_version: git commit, or package version, of the code that trained it.
        data_hash: SHA-256 of the raw columns and outcomes that it was trained on.
        calibration: applied to the model's probabilities; None leaves them unchanged.
        costs: the costs that the threshold was chosen by; None if it was chosen by F1.
    """

    model: bytes
    transform: FeatureTransform
    threshold: float
    metrics: Mapping[str, float]
    code_version: str
    data_hash: str
    calibration: Calibration | None = None
    costs: CallCosts | None = None

    @property
    def schema(self) -> CustomerSchema:
        """The customer schema that the model was trained with."""
        return self.transform.schema

    @cached_property
    def booster(self) -> xgboost.Booster:
        """The model, read from its bytes once.

        Raises:
            BundleFormatError: XGBoost cannot read the bytes, or the model has other features.
        """
        try:
            booster = booster_from_bytes(self.model)
        except import_xgboost().core.XGBoostError as error:
            raise BundleFormatError(
                f"XGBoost cannot read the {len(self.model)} bytes of {MODEL}: {error}.", remedy=_REMEDY
            ) from error
        expected = len(self.schema.features)
        if booster.num_features() != expected:
            raise BundleFormatError(
                f"{MODEL} reads {booster.num_features()} features, expected the {expected} of {SCHEMA}.",
                remedy=_REMEDY,
            )
        return booster

    def score(self, columns: Columns, threads: int = 1) -> NDArray[np.float32]:
        """Return P(churn) of raw rows.

        Args:
            columns: raw column name -> shape (n,), as `FeatureTransform.transform` takes them.
            threads: number of threads that XGBoost uses.

        Returns:
            shape (n,), 0..1.

        Raises:
            FeatureError: a column is missing or a value has no feature.
        """
        return self.score_features(self.transform.transform(columns), threads=threads)

    def score_features(self, matrix: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
        """Return P(churn) of finished features.

        Args:
            matrix: shape (n, features), in the order of `schema.features`.
            threads: number of threads that XGBoost uses.

        Returns:
            shape (n,), 0..1.
        """
        probabilities = predict(self.booster, matrix, threads=threads)
        return probabilities if self.calibration is None else self.calibration.apply(probabilities)

    def to_parts(self) -> dict[str, bytes]:
        """Return file name -> bytes of every part, the manifest last. Equal bundles have equal bytes."""
        parts = {
            MODEL: self.model,
            IMPUTER: self.transform.imputer.to_json().encode(),
            ENCODER: self.transform.encoder.to_json().encode(),
            SCALER: self.transform.scaler.to_json().encode(),
            SCHEMA: self.schema.to_json().encode(),
        }
        if self.calibration is not None:
            parts[CALIBRATION] = calibration_to_json(self.calibration).encode()
        manifest = {
            "features": list(self.schema.feature_names),
            "threshold": self.threshold,
            "costs": None if self.costs is None else asdict(self.costs),
            "metrics": dict(self.metrics),
            "code_version": self.code_version,
            "data_hash": self.data_hash,
            "sha256": {name: _sha256(content) for name, content in parts.items()},
        }
        return {**parts, MANIFEST: json.dumps(manifest, indent=2).encode()}

    @classmethod
    def from_parts(cls, parts: Mapping[str, bytes], *, origin: str) -> ModelBundle:
        """Return the bundle that `to_parts` took apart. Every part is verified and the model is read.

        Args:
            parts: file name -> bytes, the manifest included; files that the manifest does not list are ignored.
            origin: where the parts come from, for error messages.

        Raises:
            BundleIncompleteError: the manifest or a part is missing.
            BundleTamperedError: the SHA-256 of a part is not the one in the manifest.
            BundleFormatError: a part cannot be read or belongs to another customer schema.
        """
        manifest = _manifest(_part(parts, MANIFEST, origin), origin)
        verified = {
            name: _verified(_part(parts, name, origin), name, manifest["sha256"].get(name), origin)
            for name in _expected_parts(manifest)
        }
        try:
            features = tuple(manifest["features"])
            bundle = cls._from_verified(verified, manifest)
        except _UNREADABLE as error:
            raise _unreadable(origin, error) from error
        if features != bundle.schema.feature_names:
            raise BundleFormatError(
                f"The bundle at {origin} was trained on the features {', '.join(features)}; "
                f"this version of the platform makes {', '.join(bundle.schema.feature_names)} from its {SCHEMA}.",
                remedy=_REMEDY,
            )
        bundle.booster  # noqa: B018  read now: a bundle that cannot score must fail here, not at the first event
        return bundle

    @classmethod
    def _from_verified(cls, parts: Mapping[str, bytes], manifest: Mapping[str, Any]) -> ModelBundle:
        calibration = parts.get(CALIBRATION)
        return cls(
            model=parts[MODEL],
            transform=FeatureTransform(
                schema=CustomerSchema.from_json(parts[SCHEMA].decode()),
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


def listed_parts(manifest: bytes, *, origin: str) -> tuple[str, ...]:
    """Return the file names of the parts that belong to the bundle with this manifest, the manifest itself aside.

    Raises:
        BundleFormatError: the manifest cannot be read, or lists a part that is unknown to this version.
    """
    return _expected_parts(_manifest(manifest, origin))


def missing_part(name: str, *, origin: str) -> BundleIncompleteError:
    """Return the error for a part, or a manifest, that does not exist."""
    return BundleIncompleteError(
        f"The bundle at {origin} has no {name}: it was moved, or saving it was interrupted.", remedy=_REMEDY
    )


def _expected_parts(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    return (*REQUIRED, CALIBRATION) if CALIBRATION in manifest["sha256"] else REQUIRED


def _manifest(content: bytes, origin: str) -> dict[str, Any]:
    """Return the manifest, its hashes by part name.

    Raises:
        BundleFormatError: it cannot be read, or lists a part that is unknown to this version.
    """
    try:
        manifest = dict(json.loads(content))
        manifest["sha256"] = {str(name): str(digest) for name, digest in manifest["sha256"].items()}
    except _UNREADABLE as error:
        raise _unreadable(origin, error) from error
    unknown = sorted(set(manifest["sha256"]) - {*REQUIRED, CALIBRATION})
    if unknown:
        raise BundleFormatError(
            f"The bundle at {origin} lists parts that this version of the platform does not know: "
            f"{', '.join(unknown)}.",
            remedy=_REMEDY,
        )
    return manifest


def _part(parts: Mapping[str, bytes], name: str, origin: str) -> bytes:
    if name not in parts:
        raise missing_part(name, origin=origin)
    return parts[name]


def _verified(content: bytes, name: str, expected: str | None, origin: str) -> bytes:
    actual = _sha256(content)
    if actual != expected:
        raise BundleTamperedError(
            f"{name} of the bundle at {origin} was changed after it was saved: its SHA-256 is {actual}, "
            f"the manifest says {expected}.",
            remedy=_REMEDY,
        )
    return content


def _unreadable(origin: str, error: Exception) -> BundleFormatError:
    return BundleFormatError(f"The bundle at {origin} cannot be read: {error!r}.", remedy=_REMEDY)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def require_same_scores(raw: NDArray[np.float32], prepared: NDArray[np.float32]) -> None:
    """Check that features prepared step by step have the same scores as the raw rows of the same customers.

    Args:
        raw: shape (n,), what `ModelBundle.score` returned for the raw rows.
        prepared: shape (n,), what `ModelBundle.score_features` returned for the prepared features.

    Raises:
        SkewError: the number of rows differs, or any score does, by however little.
    """
    if np.array_equal(prepared, raw):
        return
    raise SkewError(
        f"{len(raw)} raw rows and {len(prepared)} rows of prepared features have different scores, "
        f"expected equal scores row by row. They come from different runs.",
        remedy="Materialize the preparation group and churn_model again.",
    )
