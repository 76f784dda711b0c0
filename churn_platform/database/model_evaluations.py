"""The table model_evaluations: curves, slices and drivers of each model version, measured on the test split.

They are stored here, not only in MLflow, so that the dashboard needs neither MLflow nor the artifact store to show a
model, and shows the same in an installation with files in S3. A report has about 10 KB, and there is one for each
training.
"""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb


def save(connection: psycopg.Connection, version: int, report: Mapping[str, object]) -> None:
    """Store the report of a registered version; a later evaluation replaces it."""
    connection.execute(
        "insert into model_evaluations (version, report) values (%s, %s) "
        "on conflict (version) do update set report = excluded.report, evaluated_at = now()",
        (version, Jsonb(dict(report))),
    )


def find(connection: psycopg.Connection, version: int) -> Mapping[str, Any] | None:
    """Return the report of a version, as `save` was given it; None if it has none."""
    row = connection.execute("select report from model_evaluations where version = %s", (version,)).fetchone()
    return None if row is None else row[0]
