"""Makes each forked run write what it finds in its process, at its end. Python imports this module by itself.

The folder that TESTS_OBSERVED_FOLDER names gets one file for each run.
"""

import atexit
import json
import multiprocessing
import os
import random
import sys
from multiprocessing import util
from pathlib import Path


def _in_fork(_: object) -> None:
    """Called in each forked process before it does anything."""
    if type(multiprocessing.current_process()).__name__ == "ForkedRun":
        inherited = set(sys.modules)
        atexit.register(lambda: _write(sorted(set(sys.modules) - inherited)))


def _write(imported: list[str]) -> None:
    import numpy as np

    found = {
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "imported": imported,
        "packages": sorted({name for name in imported if "." not in name}),
        "numbers": [random.random(), float(np.random.random())],  # noqa: S311  for no secret
        "parent": os.getppid(),
        "pid": os.getpid(),
    }
    file = Path(os.environ["TESTS_OBSERVED_FOLDER"]) / f"{os.getpid()}.json"
    file.with_suffix(".draft").write_text(json.dumps(found))
    file.with_suffix(".draft").rename(file)


if "multiprocessing.forkserver" in sys.orig_argv[-1]:
    util.register_after_fork(util, _in_fork)
