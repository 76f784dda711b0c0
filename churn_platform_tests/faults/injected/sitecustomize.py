"""Imported by Python itself in every process of a platform under test. Injects faults at armed fault points.

An armed fault point is a file with its name in the folder, whose text is the action. A process claims it by renaming
the file, so that each fault is injected once.
"""

import json
import os
import signal
import time
from pathlib import Path

from churn_platform.stream import faults
from churn_platform.stream.faults import FaultPoint

FOLDER = Path(os.environ["TESTS_FAULTS_FOLDER"])


class FaultError(Exception):
    """An injected error, which no code expects."""


def inject(point: FaultPoint) -> None:
    """Inject the fault that this point is armed with, if any."""
    claimed = FOLDER / f"{point.name}.claimed"
    try:
        (FOLDER / point.name).rename(claimed)
    except FileNotFoundError:
        return
    action = claimed.read_text()
    draft = FOLDER / f"{point.name}.draft"
    draft.write_text(json.dumps({"pid": os.getpid(), "at": time.time()}))
    draft.rename(FOLDER / f"{point.name}.hit")
    if action == "raise":
        raise FaultError(f"Injected: {point}")
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[action])


faults.install(inject)
