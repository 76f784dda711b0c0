"""Waiting on conditions, never on the clock."""

import time
from collections.abc import Callable

PAUSE = 0.05  # seconds between two checks


def wait_until(condition: Callable[[], object], timeout: float = 30, what: str = "") -> None:
    """Wait until the condition holds.

    Args:
        condition: called repeatedly until it returns a true value.
        timeout: seconds after which the wait fails.
        what: description of the condition, for the error.

    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout
    while not (last := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"Not within {timeout:.0f} s: {what or condition}; its last value was {last!r}.")
        time.sleep(PAUSE)
