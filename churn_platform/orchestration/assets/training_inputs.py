"""What a model depends on: the customers file, the settings and the code; and whether any of it has changed since."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import dagster as dg

from churn_platform.settings import settings

if TYPE_CHECKING:  # the code server needs no pandas to start
    import pandas as pd

FILE_HASH: Final = "sha256"
"""Metadata of raw_customers and of what is made of it, up to the model: SHA-256 of the customers file."""

REVISION: Final = "git_commit"
TRAINING_SETTINGS: Final = "training_settings"
MODEL: Final = dg.AssetKey("churn_model")
SPLIT_CUSTOMERS: Final = dg.AssetKey("train_test_split")


def made_of(frame: "pd.DataFrame", sha256: str) -> "pd.DataFrame":
    """The frame, marked as made of the customers file with this SHA-256. The mark is stored with the rows."""
    frame.attrs = {FILE_HASH: sha256}
    return frame


def file_hash(frame: "pd.DataFrame") -> dict[str, str]:
    """SHA-256 of the customers file that these very rows come from, as metadata.

    It is read from the frame and not from the latest materialization upstream, which may be of newer rows than these.
    """
    return {FILE_HASH: str(frame.attrs[FILE_HASH])} if FILE_HASH in frame.attrs else {}


def training_settings() -> str:
    """The settings that a model, or its promotion, depends on."""
    return ", ".join(f"{name.upper()}={value}" for name, value in settings().training)


def changes(instance: dg.DagsterInstance, *, revision: str, file: str | None = None) -> list[str]:
    """What a training would find changed since the latest model, in words; empty where it would make the same again.

    Args:
        instance: that holds the materializations.
        revision: of the code that runs.
        file: SHA-256 of the customers file that it will read; None: it takes the data that was prepared last.
    """
    model = latest(instance, MODEL)
    if not model:
        return ["no model has been trained yet"]
    expected = {
        "the customers file": (FILE_HASH, file or latest(instance, SPLIT_CUSTOMERS).get(FILE_HASH)),
        "the settings": (TRAINING_SETTINGS, training_settings()),
        "the code": (REVISION, revision),
    }
    return [
        f"{what}: {_short(model.get(name))} to {_short(now)}"
        for what, (name, now) in expected.items()
        if now is None or now != model.get(name)
    ]


def latest(instance: dg.DagsterInstance, asset: dg.AssetKey) -> Mapping[str, str]:
    """Texts among the metadata of the latest materialization of an asset; nothing before the first."""
    event = instance.get_latest_materialization_event(asset)
    materialization = None if event is None else event.asset_materialization
    if materialization is None:
        return {}
    return {name: str(value.value) for name, value in materialization.metadata.items() if isinstance(value.value, str)}


def _short(text: str | None) -> str:
    """Enough of a hash to be told apart."""
    return "unknown" if text is None else text[:12] if " " not in text else text
