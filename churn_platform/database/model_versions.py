"""The tables model_versions and model_promotions: bundles, and which version is champion.

MLflow's alias follows them, and the stream reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from psycopg import Connection
from psycopg.rows import TupleRow, class_row
from psycopg.types.json import Jsonb

from churn_platform.database import challengers
from churn_platform.errors import PlatformError

# The champion's version, as part of other statements.
CHAMPION: Final = "(select version from model_versions where promoted_at is not null and retired_at is null)"

PromotedBy: TypeAlias = Literal["training", "hand", "alias", "rollback"]


class ModelVersionError(PlatformError):
    """A model version that is not in model_versions, or that belongs to another MLflow run."""


@dataclass(frozen=True)
class ModelVersion:
    """A row of model_versions: a bundle under the version number that MLflow gave it.

    Attributes:
        version: MLflow's version of the registered model.
        uri: folder of the bundle, an absolute path or s3://.
        run_id: MLflow run that trained it.
        metrics: name -> value; "oof_" names are out of fold on the training split, others on the test split.
        registered_at: when the version was registered.
        promoted_at: when it last became champion; None if never.
        retired_at: when it last stopped being champion; None if it never was, or if it is now.
    """

    version: int
    uri: str
    run_id: str
    metrics: dict[str, float]
    registered_at: datetime
    promoted_at: datetime | None
    retired_at: datetime | None


def exist(connection: Connection[TupleRow]) -> bool:
    """Return whether a version is registered."""
    return connection.execute("select exists (select from model_versions)").fetchone() == (True,)


def move_bundles(connection: Connection[TupleRow], *, old: str, new: str) -> None:
    """Replace the folder `old`, in which bundles are, with `new` in the addresses of all versions."""
    connection.execute(
        "update model_versions set uri = %s || substr(uri, %s) where starts_with(uri, %s)",
        (new, len(old) + 1, f"{old}/"),
    )


def register(
    connection: Connection[TupleRow], *, version: int, uri: str, run_id: str, metrics: Mapping[str, float]
) -> None:
    """Record a trained version, without promoting it. Recording the same version of the same run again changes nothing.

    Raises:
        ModelVersionError: another run has already registered this version.
    """
    connection.execute(
        "insert into model_versions (version, uri, run_id, metrics) values (%s, %s, %s, %s) "
        "on conflict (version) do nothing",
        (version, uri, run_id, Jsonb(dict(metrics))),
    )
    known = get(connection, version)
    if known.run_id != run_id:
        raise ModelVersionError(
            f"Model version {version} of MLflow run {run_id} cannot be registered: run {known.run_id} already "
            f"has that version in model_versions. Train again: a training uses a number above those in model_versions."
        )


def record_metrics(connection: Connection[TupleRow], version: int, metrics: Mapping[str, float]) -> None:
    """Add metrics to a version, replacing those with the same name.

    Raises:
        ModelVersionError: there is no such version.
    """
    changed = connection.execute(
        "update model_versions set metrics = metrics || %s where version = %s", (Jsonb(dict(metrics)), version)
    )
    if changed.rowcount == 0:
        raise _unknown(version)


def get(connection: Connection[TupleRow], version: int) -> ModelVersion:
    """Return one version.

    Raises:
        ModelVersionError: there is no such version.
    """
    with connection.cursor(row_factory=class_row(ModelVersion)) as cursor:
        found = cursor.execute("select * from model_versions where version = %s", (version,)).fetchone()
    if found is None:
        raise _unknown(version)
    return found


def of_run(connection: Connection[TupleRow], version: int, run_id: str) -> ModelVersion:
    """Return one version, if it belongs to this MLflow run. A new registry or a restored database reuses numbers.

    Raises:
        ModelVersionError: there is no such version, or it belongs to another run.
    """
    found = get(connection, version)
    if found.run_id != run_id:
        raise ModelVersionError(
            f"Model version {version} belongs to MLflow run {found.run_id} in model_versions, not to run "
            f"{run_id or 'none'}: the number was used twice, because a registry or a database was replaced.",
            remedy="Train a model again (training_job), or name another version ('churn model list').",
        )
    return found


def metrics_of(connection: Connection[TupleRow], versions: Iterable[int]) -> dict[int, dict[str, float]]:
    """Return the metrics of these versions."""
    rows = connection.execute("select version, metrics from model_versions where version = any(%s)", (list(versions),))
    return dict(rows.fetchall())


def newest(connection: Connection[TupleRow]) -> int:
    """Return the greatest version number that was ever registered; 0 if there is none."""
    row = connection.execute("select coalesce(max(version), 0) from model_versions").fetchone()
    return int(row[0]) if row is not None else 0


def champion(connection: Connection[TupleRow]) -> ModelVersion | None:
    """Return the version that scores now, or None before the first promotion."""
    with connection.cursor(row_factory=class_row(ModelVersion)) as cursor:
        return cursor.execute(
            "select * from model_versions where promoted_at is not null and retired_at is null"
        ).fetchone()


def versions(connection: Connection[TupleRow]) -> list[ModelVersion]:
    """Return all versions, the newest first."""
    with connection.cursor(row_factory=class_row(ModelVersion)) as cursor:
        return cursor.execute("select * from model_versions order by version desc").fetchall()


def promote(
    connection: Connection[TupleRow], version: int, *, by: PromotedBy = "hand", reason: str = "chosen by hand"
) -> ModelVersion:
    """Make a version champion and retire the former one, in one transaction. A retired version can be promoted again.

    Args:
        version: the new champion.
        by: who or what decided.
        reason: why, in a sentence. Both are recorded in model_promotions.

    Returns:
        The new champion. Promoting the champion changes nothing.

    Raises:
        ModelVersionError: there is no such version. The champion does not change.
    """
    with connection.transaction():
        # One promotion at a time: two would retire the same champion, and the unique index would reject one of them.
        connection.execute("lock table model_versions in share row exclusive mode")
        chosen = get(connection, version)
        if chosen.promoted_at is not None and chosen.retired_at is None:
            return chosen
        connection.execute(
            "update model_versions set retired_at = now() where promoted_at is not null and retired_at is null"
        )
        connection.execute(
            "update model_versions set promoted_at = now(), retired_at = null where version = %s", (version,)
        )
        connection.execute(
            "insert into model_promotions (version, promoted_by, reason) values (%s, %s, %s)", (version, by, reason)
        )
        challengers.end_promoted(connection, version)
        return get(connection, version)


def rollback(connection: Connection[TupleRow], *, reason: str) -> tuple[ModelVersion, ModelVersion]:
    """Make the previous champion champion again. Rolling back again goes one version further back.

    Args:
        reason: why, in a sentence.

    Returns:
        The former champion and the new one.

    Raises:
        ModelVersionError: there was no champion before.
    """
    with connection.transaction():
        connection.execute("lock table model_versions in share row exclusive mode")
        line = _champions_in_order(
            connection.execute("select version, promoted_by from model_promotions order by promotion").fetchall()
        )
        if len(line) < 2:
            raise ModelVersionError(
                f"There is no champion before {f'version {line[0]}' if line else 'the first'} to roll back to. "
                f"'churn model list' shows the versions, and 'churn model promote' makes any of them champion."
            )
        return get(connection, line[-1]), promote(connection, line[-2], by="rollback", reason=reason)


def _champions_in_order(promotions: Iterable[tuple[int, str]]) -> list[int]:
    """Return the versions that led to the champion, oldest first. A rollback removes what came after its version."""
    line: list[int] = []
    for version, by in promotions:
        if by == "rollback" and version in line:
            del line[len(line) - line[::-1].index(version) :]
        else:
            line.append(version)
    return line


def _unknown(version: int) -> ModelVersionError:
    return ModelVersionError(
        f"Model version {version} is not in model_versions, so it has no bundle to score with. "
        f"Materialize churn_model to train and register one, or name a version that is in the table."
    )
