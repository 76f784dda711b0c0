"""Imported by Python itself in the processes of a slow code server. Makes each run's process wait before it starts.

The processes that the code server makes go on once the file of TESTS_RUNS_MAY_START is there. They die with the server.
"""

import os
import sys
import time
from pathlib import Path

PAUSE = 0.05  # seconds between two checks

if "--multiprocessing-fork" in sys.argv:
    may_start, server = Path(os.environ["TESTS_RUNS_MAY_START"]), os.getppid()
    while not may_start.exists():
        if os.getppid() != server:
            os._exit(1)
        time.sleep(PAUSE)
