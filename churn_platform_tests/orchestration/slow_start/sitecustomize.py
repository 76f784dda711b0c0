"""Makes each run's process of a slow code server wait before it starts. Python imports this module by itself.

The processes continue once the file that TESTS_RUNS_MAY_START names exists. They exit if the code server dies. Runs are
not forked, because the process that they would be forked from ends at once.
"""

import os
import sys
import time
from pathlib import Path

PAUSE = 0.05  # seconds between two checks

if "multiprocessing.forkserver" in sys.orig_argv[-1]:
    os._exit(1)
if "--multiprocessing-fork" in sys.argv:
    may_start, server = Path(os.environ["TESTS_RUNS_MAY_START"]), os.getppid()
    while not may_start.exists():
        if os.getppid() != server:
            os._exit(1)
        time.sleep(PAUSE)
