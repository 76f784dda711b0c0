"""What a model depends on (customers file, schema, settings and code), and which of them changed after its training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import dagster as dg

from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.file_attributes import FILE_HASH
from churn_platform.settings import settings

if TYPE_CHECKING:  # the code server starts without pandas
    from churn_platform.files.stored_frame import Frame
    from churn_platform.schema.customer_schema import CustomerSchema
    from churn_platform.scoring.bundle import ModelBundle

OUTCOMES_HASH: Final = "outcomes_sha256"
"""Name of metadata: SHA-256 of the labelled customers that a model was trained on besides the file."""

SCHEMA: Final = "customer_schema"
"""Name of metadata: fingerprint of the customer schema that a model was trained with."""

REVISION: Final = "git_commit"
TRAINING_SETTINGS: Final = "training_settings"
MODEL: Final = dg.AssetKey("churn_model")
SPLIT_CUSTOMERS: Final = dg.AssetKey("train_test_split")
LABELLED: Final = dg.AssetKey("labelled_customers")


def file_hash(frame: "Frame") -> dict[str, str]:
    """Return the SHA-256 of the customers file that these rows come from, as metadata.

    It is read from the frame, because the latest upstream materialization may belong to newer rows.
    """
    return {FILE_HASH: str(frame.attrs[FILE_HASH])} if FILE_HASH in frame.attrs else {}


def outcomes_hash(frame: "Frame") -> dict[str, str]:
    """Return the SHA-256 of the labelled customers among these rows, as metadata; nothing if there are none."""
    return {OUTCOMES_HASH: str(frame.attrs[OUTCOMES_HASH])} if OUTCOMES_HASH in frame.attrs else {}


def require_one_file(train_features: "Frame", train_test_split: "Frame") -> None:
    """Check that both were made from the same customers file.

    Raises:
        TrainingDataError: one of them was made from another file since.
    """
    hashes = [file_hash(frame).get(FILE_HASH) for frame in (train_features, train_test_split)]
    if None not in hashes and hashes[0] != hashes[1]:
        raise TrainingDataError(
            f"train_features come from the customers file with SHA-256 {hashes[0]}, train_test_split from the one with "
            f"{hashes[1]}; training needs both from one file.",
            remedy="Materialize the whole preparation group again: run data_preparation_job.",
        )


def require_same_rows(challenger: "ModelBundle", train: "Frame", schema: "CustomerSchema") -> None:
    """Check that the model was trained on the training split as it is now. Another one may overlap the test split.

    Raises:
        TrainingDataError: it was trained on other rows, or with another customer schema.
    """
    from churn_platform.modeling.training import data_hash

    if challenger.schema != schema:
        raise TrainingDataError(
            f"churn_model was trained with the customer schema {challenger.schema.fingerprint[:12]}, the schema is now "
            f"{schema.fingerprint[:12]}.",
            remedy="Run data_preparation_job, then training_job.",
        )
    current = data_hash(train, [*challenger.schema.feature_columns, challenger.schema.target])
    if challenger.data_hash != current:
        raise TrainingDataError(
            f"churn_model was trained on rows with hash {challenger.data_hash}; the training split now has {current}: "
            f"the data was prepared again after the training.",
            remedy="Materialize churn_model again, then model_evaluation: run training_job.",
        )


def training_settings() -> str:
    """Return the settings that a model or its promotion depends on, as text."""
    return ", ".join(f"{name.upper()}={value}" for name, value in settings().training)


def changes(
    instance: dg.DagsterInstance, schema: "CustomerSchema", *, revision: str, file: str | None = None
) -> list[str]:
    """Return what changed since the latest model was trained, as text; empty if a training would give the same model.

    Args:
        instance: instance with the materializations.
        schema: the customer schema that the training will use.
        revision: revision of the running code.
        file: SHA-256 of the customers file that the training will read; None if it uses the latest prepared data.
    """
    model = latest(instance, MODEL)
    if not model:
        return ["no model has been trained yet"]
    expected = {
        "the customers file": (FILE_HASH, file or latest(instance, SPLIT_CUSTOMERS).get(FILE_HASH)),
        "the customer schema": (SCHEMA, schema.fingerprint),
        "the settings": (TRAINING_SETTINGS, training_settings()),
        "the code": (REVISION, revision),
    }
    if settings().training.train_on_outcomes:
        expected["the outcomes"] = (OUTCOMES_HASH, latest(instance, LABELLED).get(OUTCOMES_HASH))
    return [
        f"{what}: {_short(model.get(name))} to {_short(now)}"
        for what, (name, now) in expected.items()
        if now is None or now != model.get(name)
    ]


def latest(instance: dg.DagsterInstance, asset: dg.AssetKey) -> Mapping[str, str]:
    """Return the texts among the metadata of an asset's latest materialization; none before the first."""
    event = instance.get_latest_materialization_event(asset)
    materialization = None if event is None else event.asset_materialization
    if materialization is None:
        return {}
    return {name: str(value.value) for name, value in materialization.metadata.items() if isinstance(value.value, str)}


def _short(text: str | None) -> str:
    """Return the first characters of a hash; other texts unchanged."""
    return "unknown" if text is None else text[:12] if " " not in text else text
