"""XGBoost itself: the only module that imports it, and how its models become bytes and scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from types import ModuleType

    import xgboost


@contextmanager
def _without_scikit_learn() -> Iterator[None]:
    """Let an import inside find no scikit-learn, unless this process has it already.

    XGBoost imports scikit-learn whenever it is installed, only to derive its XGBClassifier from it. That turns 0.3 s
    into 1.5 s on a streaming run's way to its first event. The platform uses XGBoost's own API alone, in training
    too, so what is lost (XGBClassifier and its kin, in this process) is not missed.
    """
    if "sklearn" in sys.modules:
        yield
        return
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # documented: None makes an import raise ImportError
    try:
        yield
    finally:
        del sys.modules["sklearn"]


def import_xgboost() -> ModuleType:
    """The xgboost module, imported when first needed."""
    with _without_scikit_learn():
        import xgboost

    return xgboost


def booster_from_bytes(ubj: bytes) -> xgboost.Booster:
    """The model that `booster_to_bytes` wrote. No code is run: UBJ is data, unlike a pickle.

    Raises:
        xgboost.core.XGBoostError: the bytes are not a model.
    """
    booster: xgboost.Booster = import_xgboost().Booster(model_file=bytearray(ubj))
    return booster


def booster_to_bytes(booster: xgboost.Booster) -> bytes:
    """The model in XGBoost's UBJ format; the same training on the same rows gives the same bytes."""
    return bytes(booster.save_raw(raw_format="ubj"))


def predict(booster: xgboost.Booster, matrix: NDArray[np.float32], *, threads: int) -> NDArray[np.float32]:
    """P(churn) of each row.

    Args:
        booster: a binary:logistic model.
        matrix: shape (n, features), C order, NaN where missing.
        threads: threads of XGBoost for this and later calls.

    Returns:
        shape (n,), 0..1.
    """
    if len(matrix) == 0:
        return np.empty(0, dtype=np.float32)
    booster.set_param({"nthread": threads})
    probabilities: NDArray[np.float32] = booster.inplace_predict(matrix)
    return probabilities
