"""Jars from Maven Central, such as Kafka's. A lock file lists them, and exactly those are downloaded.

`python -m churn_platform.local.jars` resolves Kafka's jars again and rewrites their lock file.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.env import LockFile
from jgo.maven import Artifact, MavenContext
from platformdirs import user_cache_path

from churn_platform.local.errors import StackError

KAFKA_VERSION = "4.3.1"
BROKER = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
"""Without it the broker writes no log; Kafka's own distribution has it too. The version is that of its log4j-core."""
TOOLS = f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}"
"""Kafka's console and performance producers, without their dependencies for Kafka Connect."""
LOCK_FILE = Path(__file__).with_name("kafka.lock.toml")
DOWNLOADS_AT_ONCE = 8


def maven_repository() -> MavenContext:
    """Return Maven Central, or the mirrors of the user's jgo configuration, with the user's cache folder."""
    mirrors = GlobalSettings.load().repositories or {"central": MAVEN_CENTRAL_URL}
    cache = user_cache_path("churn-platform", ensure_exists=True) / "maven"
    cache.mkdir(exist_ok=True)
    return MavenContext(repo_cache=cache, remote_repos=mirrors, timeout=30)


def _locked(lock: LockFile, repository: MavenContext) -> list[Artifact]:
    return [
        repository.project(jar.groupId, jar.artifactId)
        .at_version(jar.version)
        .artifact(jar.classifier or "", jar.packaging)
        for jar in lock.dependencies
    ]


def _path(artifact: Artifact) -> Path:
    path = artifact.cached_path
    if path is None:
        raise StackError(f"{artifact} has no path in the cache.", remedy="Reinstall jgo.")
    return path


def class_path() -> list[Path]:
    """Return the paths of Kafka's jars, downloaded or not."""
    return [_path(artifact) for artifact in _locked(LockFile.load(LOCK_FILE), maven_repository())]


def fetch(report: Callable[[str], None], lock_file: Path = LOCK_FILE) -> list[Path]:
    """Download every jar of the lock file that the cache lacks, and check its SHA-256 sum.

    A jar with a wrong sum (a download that was interrupted, or a file that was changed) is downloaded again, once.

    Args:
        report: receives the progress.
        lock_file: lists the jars; by default Kafka's.

    Raises:
        StackError: a jar cannot be downloaded, or is not the one in the lock file.
    """
    repository = maven_repository()
    lock = LockFile.load(lock_file)
    artifacts = _locked(lock, repository)
    if not lock.verify_checksums(repository.repo_cache):
        return [_path(artifact) for artifact in artifacts]
    with FileLock(repository.repo_cache / ".lock"):  # two stacks that start at once share the cache
        _download(lock.environment_name, _differing(lock, artifacts), report)
        wrong = lock.verify_checksums(repository.repo_cache)
    if wrong:
        raise StackError(
            f"{len(wrong)} of {len(artifacts)} jars are not the ones in {lock_file}.",
            remedy=f"Check which Maven repository answers ({', '.join(repository.remote_repos.values())}).",
            details="\n".join(wrong),
        )
    return [_path(artifact) for artifact in artifacts]


def _differing(lock: LockFile, artifacts: list[Artifact]) -> list[Artifact]:
    sums = [jar.sha256 for jar in lock.dependencies]
    return [
        artifact for artifact, expected in zip(artifacts, sums, strict=True) if _sha256(_path(artifact)) != expected
    ]


def _sha256(file: Path) -> str | None:
    if not file.exists():
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _download(name: str | None, artifacts: list[Artifact], report: Callable[[str], None]) -> None:
    for artifact in artifacts:
        _path(artifact).unlink(missing_ok=True)
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        downloads = [pool.submit(artifact.resolve) for artifact in artifacts]
        for done, download in enumerate(downloads, start=1):
            try:
                download.result()
            except (RuntimeError, OSError) as error:
                pool.shutdown(cancel_futures=True)
                raise StackError(
                    f"The jars of {name} could not be downloaded: {error}",
                    remedy="Check the network, or name a Maven mirror in ~/.config/jgo.conf; then run this again.",
                ) from error
            report(f"downloading {name} from Maven Central, {done} of {len(artifacts)} jars")


def write_lock() -> LockFile:
    """Resolve the jars again and write the lock file."""
    repository = maven_repository()
    broker, needed = repository.resolver.resolve([repository.create_dependency(BROKER)])
    # Not resolved together with the broker: log4j's managed versions would replace kafka-clients by an older one, and
    # the tools would bring a web server.
    jars = [*broker, *needed, repository.create_dependency(LOGGING), repository.create_dependency(TOOLS)]
    lock = LockFile.from_resolved_dependencies(jars, environment_name=f"kafka-{KAFKA_VERSION}")
    lock.save(LOCK_FILE)
    return lock


if __name__ == "__main__":
    write_lock()
