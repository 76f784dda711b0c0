"""Freed memory goes back to the system."""

import subprocess
import sys

import pytest

# Small pieces, which malloc takes from its heap. The last one keeps the heap from shrinking by itself.
PROGRAM = """
import re
from pathlib import Path
from churn_platform.files.memory import release_unused_memory

def resident_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

release_unused_memory()
before = resident_mb()
pieces = [bytearray(4_000) for _ in range(50_000)]
last = bytearray(4_000)
del pieces
freed = resident_mb()
release_unused_memory()
print(freed - before > 150, resident_mb() - before < 50)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc, and needs malloc_trim")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "True"]
