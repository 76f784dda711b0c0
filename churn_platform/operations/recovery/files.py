"""Files that the database names and the artifacts root has lost: bundles of model versions, and the archive."""

import psycopg

from churn_platform.database import model_versions, stream_batches
from churn_platform.errors import PlatformError
from churn_platform.files import artifacts
from churn_platform.files.artifacts import join
from churn_platform.files.exceptions import ArtifactStoreError
from churn_platform.model_store import load_bundle
from churn_platform.operations.erasure import archived
from churn_platform.scoring.bundle import MANIFEST


def find_problems(connection: psycopg.Connection) -> list[str]:
    """Return a sentence for each file that is missing, and for a champion's bundle that cannot be loaded.

    Raises:
        ArtifactStoreError: the S3 server rejects a request or cannot be reached.
    """
    champion = model_versions.champion(connection)
    problems = []
    for version in model_versions.versions(connection):
        if champion is not None and version.version == champion.version:
            problems += _champion_problems(version.version, version.uri)
        elif not artifacts.find_files(join(version.uri, MANIFEST)):
            problems.append(f"The bundle of version {version.version} is missing: {version.uri}.")
    problems += [
        f"The archive file {file} is missing: predictions of old batches are lost."
        for file, is_complete in stream_batches.archive_files(connection).items()
        # After a restore of the database alone, the ledger names a file that a later erasure has replaced.
        if is_complete and not artifacts.find_files(file) and not archived.has_successor(file)
    ]
    return problems


def _champion_problems(version: int, uri: str) -> list[str]:
    try:
        load_bundle(uri)
    except ArtifactStoreError:
        raise
    except PlatformError as error:
        return [f"The bundle of the champion, version {version}, cannot be loaded: {error.problem}"]
    return []
