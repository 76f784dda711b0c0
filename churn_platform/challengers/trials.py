"""Starting a shadow or a canary: what has to be true before a version is tried on the stream."""

import psycopg

from churn_platform.database import challengers, model_versions, worker_positions
from churn_platform.database.challengers import Challenger, ChallengerError, Kind
from churn_platform.model_store import load_bundle
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.stream.schema_agreement import require_scorable


def start(
    connection: psycopg.Connection, kind: Kind, *, model_version: int, share: float, schema: CustomerSchema
) -> Challenger:
    """Start a shadow or a canary. The worker follows the commits from now on for it.

    Args:
        connection: in autocommit mode.
        kind: shadow or canary.
        model_version: of model_versions.
        share: of the customers, more than 0, at most 1.
        schema: that events are decoded with.

    Raises:
        ModelVersionError: there is no such version.
        ChallengerError: it is the champion, there is no champion, or another version is being tried.
        BundleError: its bundle cannot be read.
        SchemaDisagreementError: it cannot score events of this schema.
    """
    champion = model_versions.champion(connection)
    version = model_versions.get(connection, model_version)
    if champion is None:
        raise ChallengerError(
            f"There is no champion, so version {model_version} cannot be its challenger.",
            remedy=f"Run 'churn model promote {model_version}'.",
        )
    if champion.version == model_version:
        raise ChallengerError(
            f"Version {model_version} is the champion, and expected another version to try beside it.",
            remedy="'churn model list' shows the others.",
        )
    load_challenger(version, schema)
    with connection.transaction():
        started = challengers.start(connection, kind, model_version=model_version, share=share)
        challengers.ensure_key(connection, kind)
        worker_positions.forget(connection, kind)  # the name of the duty that follows the stream for it
        worker_positions.begin(connection, kind)
    return started


def load_challenger(version: model_versions.ModelVersion, schema: CustomerSchema) -> ModelBundle:
    """Load the bundle of a version that is to score events of a schema.

    Raises:
        BundleError: its bundle cannot be read.
        SchemaDisagreementError: it cannot score them.
    """
    bundle = load_bundle(version.uri)
    require_scorable(bundle.schema, schema, model_version=version.version, source="events")
    return bundle


def stop(connection: psycopg.Connection, kind: Kind, *, reason: str) -> Challenger:
    """End the shadow or the canary.

    Returns:
        What was ended.

    Raises:
        ChallengerError: there is none.
    """
    with connection.transaction():
        current = challengers.lock_active(connection, kind)
        if current is None:
            raise ChallengerError(f"There is no {kind}, so nothing was stopped.")
        challengers.end(connection, current, by="hand", reason=reason)
        worker_positions.forget(connection, kind)
    return current
