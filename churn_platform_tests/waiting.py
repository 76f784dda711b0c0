"""Waiting on conditions, never on the clock."""

import time
from collections.abc import Callable

PAUSE = 0.05  # seconds between two looks


def wait_until(condition: Callable[[], object], timeout: float = 30, what: str = "") -> None:
    """Wait until the condition holds.

    Args:
        condition: is asked again and again until it returns something true.
        timeout: seconds after which it has failed.
        what: the condition as text, for the failure.

    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout
    while not (last := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"Not within {timeout:.0f} s: {what or condition}; it last gave {last!r}.")
        time.sleep(PAUSE)
