"""How long the platform takes to be well again after a fault."""

import time
from dataclasses import dataclass

from churn_platform_tests.faults.catalogue import Fault
from churn_platform_tests.faults.platform import LONGEST_WAIT, FaultyPlatform
from churn_platform_tests.waiting import wait_until


@dataclass(frozen=True)
class Recovery:
    """A fault that the platform has got over; in seconds.

    Attributes:
        fault: its name.
        title: in words.
        outage: how long its cause lasted; nothing can recover before.
        first_row: from the end of the cause to the first visible row of an event sent after the fault had struck.
        caught_up: from the end of the cause until less waited than a second brings.
    """

    fault: str
    title: str
    outage: float
    first_row: float
    caught_up: float


def strike(platform: FaultyPlatform, fault: Fault) -> Recovery:
    """Break one thing under traffic and wait until rows come again and every part answers."""
    platform.traffic.start()
    platform.live()
    struck = fault.strike(platform)
    row = platform.wait_for_row_after(struck.at)
    wait_until(lambda: platform.waiting() < platform.load.rate, LONGEST_WAIT, "what gathered meanwhile to be read")
    caught_up = time.time()
    struck.aftermath()
    wait_until(platform.ready, LONGEST_WAIT, "every part to answer again")
    return Recovery(
        fault.name,
        fault.title,
        outage=struck.mended - struck.at,
        first_row=max(0.0, row - struck.mended),
        caught_up=caught_up - struck.mended,
    )
