"""Event ids as 16 bytes in arrays: looked up, cut into parts, shown as UUID."""

from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from churn_platform.operations.extracts import ID_TYPE

LOOKED_UP_AT_ONCE: Final = 10_000


def index_in(ordered: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> NDArray[np.intp]:
    """Return the index of each wanted id in sorted ids; -1 if it is not there."""
    if not len(ordered):
        return np.full(len(wanted), -1, np.intp)
    index = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[index] == wanted, index, -1)


def parts_of(ids: NDArray[np.bytes_]) -> list[NDArray[np.bytes_]]:
    return [ids[start : start + LOOKED_UP_AT_ONCE] for start in range(0, len(ids), LOOKED_UP_AT_ONCE)]


def raw_id(event_id: bytes) -> bytes:
    """Return all 16 bytes of an id: numpy cuts trailing zeros off."""
    return bytes(event_id).ljust(np.dtype(ID_TYPE).itemsize, b"\0")


def id_text(event_id: bytes) -> str:
    return str(UUID(bytes=raw_id(event_id)))
