"""Recovery times of the platform after a fault."""

import time
from dataclasses import dataclass

from churn_platform_tests.faults.catalogue import Fault
from churn_platform_tests.faults.platform import TIMEOUT, FaultyPlatform
from churn_platform_tests.waiting import wait_until


@dataclass(frozen=True)
class Recovery:
    """A fault that the platform has recovered from. Times are in seconds.

    Attributes:
        fault: name of the fault.
        title: description of the fault.
        outage: how long its cause lasted.
        first_row: recovery time, from the end of the cause to the first visible row of a later event.
        caught_up: from the end of the cause until the lag was less than the traffic of one second.
    """

    fault: str
    title: str
    outage: float
    first_row: float
    caught_up: float


def inject_and_recover(platform: FaultyPlatform, fault: Fault) -> Recovery:
    """Inject a fault under traffic, and wait until rows arrive again and all parts are ready."""
    platform.traffic.start()
    platform.live()
    injected = fault.inject(platform)
    row = platform.wait_for_row_after(injected.at)
    wait_until(lambda: platform.lag() < platform.load.rate, TIMEOUT, "the backlog to be read")
    caught_up = time.time()
    injected.aftermath()
    wait_until(platform.ready, TIMEOUT, "all parts to be ready again")
    return Recovery(
        fault.name,
        fault.title,
        outage=injected.repaired - injected.at,
        first_row=max(0.0, row - injected.repaired),
        caught_up=caught_up - injected.repaired,
    )
