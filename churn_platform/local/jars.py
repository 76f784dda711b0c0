"""Kafka's jars: resolved once from Maven Central into a lock file, then always exactly those.

`python -m churn_platform.local.jars` resolves them anew and rewrites the lock file.
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
"""In Kafka's own distribution too: without it the broker writes no log. The version of the broker's log4j-core."""
TOOLS = f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}"
"""Kafka's own console and performance producers, without what they need for Kafka Connect."""
LOCK_FILE = Path(__file__).with_name("kafka.lock.toml")
DOWNLOADS_AT_ONCE = 8


def _repository() -> MavenContext:
    """Maven Central, or the mirrors of the user's jgo configuration, into the user's cache folder."""
    mirrors = GlobalSettings.load().repositories or {"central": MAVEN_CENTRAL_URL}
    cache = user_cache_path("churn-platform", ensure_exists=True) / "maven"
    cache.mkdir(exist_ok=True)
    return MavenContext(repo_cache=cache, remote_repos=mirrors, timeout=30)


def _locked(repository: MavenContext) -> list[Artifact]:
    return [
        repository.project(jar.groupId, jar.artifactId)
        .at_version(jar.version)
        .artifact(jar.classifier or "", jar.packaging)
        for jar in LockFile.load(LOCK_FILE).dependencies
    ]


def _path(artifact: Artifact) -> Path:
    path = artifact.cached_path
    if path is None:
        raise StackError(f"{artifact} has no place in the cache.", remedy="Reinstall jgo.")
    return path


def class_path() -> list[Path]:
    """Where the jars of the lock file are, or will be once fetched."""
    return [_path(artifact) for artifact in _locked(_repository())]


def fetch(report: Callable[[str], None]) -> list[Path]:
    """Bring every jar of the lock file into the cache and check its SHA-256 sum.

    A jar with another sum (a download that was cut short, or one that was tampered with) is fetched again, once.

    Args:
        report: is told how far it is.

    Raises:
        StackError: a jar cannot be fetched, or is not the one in the lock file.
    """
    repository = _repository()
    artifacts = _locked(repository)
    lock = LockFile.load(LOCK_FILE)
    if not lock.verify_checksums(repository.repo_cache):
        return [_path(artifact) for artifact in artifacts]
    with FileLock(repository.repo_cache / ".lock"):  # two stacks that start at once share the cache
        _download(_not_as_locked(lock, artifacts), report)
        wrong = lock.verify_checksums(repository.repo_cache)
    if wrong:
        raise StackError(
            f"{len(wrong)} of Kafka's {len(artifacts)} jars are not the ones in {LOCK_FILE}.",
            remedy=f"Check which Maven repository answers ({', '.join(repository.remote_repos.values())}).",
            details="\n".join(wrong),
        )
    return [_path(artifact) for artifact in artifacts]


def _not_as_locked(lock: LockFile, artifacts: list[Artifact]) -> list[Artifact]:
    sums = [jar.sha256 for jar in lock.dependencies]
    return [
        artifact for artifact, expected in zip(artifacts, sums, strict=True) if _sha256(_path(artifact)) != expected
    ]


def _sha256(file: Path) -> str | None:
    if not file.exists():
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _download(artifacts: list[Artifact], report: Callable[[str], None]) -> None:
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
                    f"Kafka's jars could not be downloaded: {error}",
                    remedy="Check the network, or name a Maven mirror in ~/.config/jgo.conf; then run it again.",
                ) from error
            report(f"downloading Kafka {KAFKA_VERSION} from Maven Central, {done} of {len(artifacts)} jars")


def write_lock() -> LockFile:
    """Resolve the jars anew and write the lock file."""
    repository = _repository()
    broker, needed = repository.resolver.resolve([repository.create_dependency(BROKER)])
    # not resolved with the broker: what log4j manages would replace kafka-clients by an older version, and the tools
    # bring a web server
    jars = [*broker, *needed, repository.create_dependency(LOGGING), repository.create_dependency(TOOLS)]
    lock = LockFile.from_resolved_dependencies(jars, environment_name=f"kafka-{KAFKA_VERSION}")
    lock.save(LOCK_FILE)
    return lock


if __name__ == "__main__":
    write_lock()
