"""The Java parts of the other stream processors: locked jars, and the contenders' own classes, compiled.

`python -m benchmarks.peers.jars` installs them into .venv-peers, which `make bench-peers` has created.
`python -m benchmarks.peers.jars --lock` resolves the jars again and rewrites the lock files.
"""

import os
import shutil
import subprocess
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final

import typer
from jgo.env import LockFile

from churn_platform.local.jars import KAFKA_VERSION, fetch, maven_repository
from churn_platform.local.java import find_java

HERE: Final = Path(__file__).parent
PEERS: Final = HERE.parents[1] / ".venv-peers"
FOLDER: Final = PEERS / "java"
CONTENDERS: Final = ("streams", "spark")
CLASSES: Final = "contenders.jar"  # of benchmarks/peers/java
RELEASE: Final = "17"  # the oldest Java that Kafka Streams 4 and Spark 4 run on

SPARK_VERSION: Final = "4.2.0"  # that of pyspark in requirements.in
# Maven Central has no other artifact of a current XGBoost for Java. Its name says Scala 2.12, but its Java API needs no
# Scala, only Kryo's interfaces and a log.
XGBOOST: Final = "ml.dmlc:xgboost4j_2.12:3.4.0"
# Jars that are locked with all that they depend on.
RESOLVED: Final = {
    "streams": (f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}",),
    "spark": (),
    "compiler": ("org.eclipse.jdt:ecj:3.44.0",),  # the Java runtime that everything runs on has no compiler
}
# Jars that are locked alone.
ALONE: Final = {
    "streams": (
        XGBOOST,
        "com.esotericsoftware:kryo:5.6.2",
        "commons-logging:commons-logging:1.3.4",
        "org.slf4j:slf4j-nop:1.7.36",  # without a binding, slf4j prints a warning
    ),
    # pyspark brings what else these need.
    "spark": (
        f"org.apache.spark:spark-sql-kafka-0-10_2.13:{SPARK_VERSION}",
        f"org.apache.spark:spark-token-provider-kafka-0-10_2.13:{SPARK_VERSION}",
        "org.apache.kafka:kafka-clients:3.9.2",
        "org.apache.commons:commons-pool2:2.13.1",
        XGBOOST,
    ),
    "compiler": (),
}


def installed(contender: str) -> list[Path]:
    """Return the installed jars of a contender: streams or spark.

    Raises:
        FileNotFoundError: they are not installed.
    """
    found = sorted((FOLDER / contender).glob("*.jar"))
    if not found:
        raise FileNotFoundError(f"{FOLDER} has no jars of {contender}. Run 'make bench-peers'.")
    return found


def install() -> None:
    """Download the locked jars that the cache lacks, check their hashes, and compile the Java sources."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for contender in CONTENDERS:
        folder = FOLDER / contender
        folder.mkdir(parents=True)
        for jar in fetch(print, _lock_file(contender)):
            (folder / jar.name).symlink_to(jar)
    classes = _compiled(fetch(print, _lock_file("compiler")))
    for contender in CONTENDERS:
        shutil.copy(classes, FOLDER / contender)


def _compiled(compiler: Collection[Path]) -> Path:
    """Return a jar of the compiled Java sources."""
    classes, archive = FOLDER / "classes", FOLDER / CLASSES
    # Spark's Kafka client is older than that of Kafka Streams, which therefore comes first.
    libraries = [*installed("streams"), *PEERS.glob("lib/python*/site-packages/pyspark/jars/*.jar")]
    command = [str(find_java()), "-cp", _class_path(compiler), "org.eclipse.jdt.internal.compiler.batch.Main"]
    options = [f"-{RELEASE}", "-warn:none", "-cp", _class_path(libraries), "-d", str(classes)]
    subprocess.run([*command, *options, *map(str, sorted((HERE / "java").glob("*.java")))], check=True)
    with zipfile.ZipFile(archive, "w") as jar:
        for file in sorted(classes.rglob("*.class")):
            jar.write(file, file.relative_to(classes))
    return archive


def _class_path(jars: Collection[Path]) -> str:
    return os.pathsep.join(map(str, jars))


def _lock_file(contender: str) -> Path:
    return HERE / f"{contender}.lock.toml"


def write_locks() -> None:
    """Resolve the jars again and write the lock files."""
    repository = maven_repository()
    for contender, resolved in RESOLVED.items():
        found = [repository.create_dependency(jar) for jar in ALONE[contender]]
        for jar in resolved:
            root, needed = repository.resolver.resolve([repository.create_dependency(jar)])
            found += [*root, *needed]
        LockFile.from_resolved_dependencies(found, environment_name=contender).save(_lock_file(contender))


def main(lock: Annotated[bool, typer.Option(help="Rewrite the lock files.")] = False) -> None:
    """Install the jars of the contenders in Java, or lock them again."""
    if lock:
        write_locks()
    else:
        install()


if __name__ == "__main__":
    typer.run(main)
