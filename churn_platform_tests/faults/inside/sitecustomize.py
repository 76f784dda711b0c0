"""Imported by Python itself in every process of a platform under test: breaks a run at the fault point that is ordered.

An order is a file named after the fault point, in the folder of orders; its text says what is done. The process that
renames the file takes the order, so that each hits once.
"""

import json
import os
import signal
import time
from pathlib import Path

from churn_platform.stream import faults
from churn_platform.stream.faults import FaultPoint

ORDERS = Path(os.environ["TESTS_FAULT_ORDERS"])


class FaultError(Exception):
    """What a test has ordered: an error that no code expects."""


def carry_out(point: FaultPoint) -> None:
    """Do what is ordered for this point, if anything is."""
    taken = ORDERS / f"{point.name}.taken"
    try:
        (ORDERS / point.name).rename(taken)
    except FileNotFoundError:
        return
    order = taken.read_text()
    draft = ORDERS / f"{point.name}.draft"
    draft.write_text(json.dumps({"pid": os.getpid(), "at": time.time()}))
    draft.rename(ORDERS / f"{point.name}.hit")
    if order == "raise":
        raise FaultError(f"Ordered: {point}")
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[order])


faults.hook = carry_out
