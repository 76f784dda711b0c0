"""XGBoost models as bytes and as scores. The only module that imports XGBoost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from types import ModuleType

    import xgboost


# The number of threads that each model was last used with.
_THREADS: WeakKeyDictionary[xgboost.Booster, int] = WeakKeyDictionary()


@contextmanager
def _without_scikit_learn() -> Iterator[None]:
    """Hide scikit-learn from imports inside the block, unless the process has already imported it.

    XGBoost imports scikit-learn if it is installed, only to derive XGBClassifier from it. That import adds 1.2 s to the
    0.3 s that a streaming run needs. The platform uses only XGBoost's own API, in training as well, so it does not miss
    XGBClassifier.
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
    """Return the module xgboost, imported when first needed."""
    if "xgboost" in sys.modules:  # then other threads may import scikit-learn now
        import xgboost

        return xgboost
    with _without_scikit_learn():
        import xgboost

    return xgboost


def booster_from_bytes(ubj: bytes) -> xgboost.Booster:
    """Return the model that `booster_to_bytes` wrote. Runs no code: UBJ is data, unlike a pickle.

    Raises:
        xgboost.core.XGBoostError: the bytes are not a model.
    """
    booster: xgboost.Booster = import_xgboost().Booster(model_file=bytearray(ubj))
    return booster


def booster_to_bytes(booster: xgboost.Booster) -> bytes:
    """Return the model in XGBoost's UBJ format. The same training on the same rows gives the same bytes."""
    return bytes(booster.save_raw(raw_format="ubj"))


def predict(booster: xgboost.Booster, matrix: NDArray[np.float32], *, threads: int) -> NDArray[np.float32]:
    """Return P(churn) of each row.

    Args:
        booster: a binary:logistic model.
        matrix: shape (n, features), C order, NaN where missing.
        threads: number of threads of XGBoost, for this and later calls.

    Returns:
        shape (n,), 0..1.
    """
    if len(matrix) == 0:
        return np.empty(0, dtype=np.float32)
    if _THREADS.get(booster) != threads:
        booster.set_param({"nthread": threads})  # XGBoost configures itself again, which takes 0.15 ms
        _THREADS[booster] = threads
    probabilities: NDArray[np.float32] = booster.inplace_predict(matrix)
    return probabilities
