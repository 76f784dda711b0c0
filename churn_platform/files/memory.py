"""Memory that the process has freed, returned to the system."""

import ctypes
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def release_unused_memory() -> None:
    """Return freed memory to the system: that of Arrow's pool, and with glibc that of `malloc`.

    Both keep it for later. After a file of ten million customers was read or written that is up to 0.3 GB, which the
    next step adds to. It takes a few milliseconds.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> "Callable[[int], int] | None":
    """Return glibc's `malloc_trim`; None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
