"""The table worker_observations: what the resident worker last found about the assets that it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

CASES: Final = "retention_cases"
CALL_LIST: Final = "call_list"
"""Names of assets, as Dagster shows them."""


@dataclass(frozen=True)
class Observation:
    """The latest observation of an asset. `number` grows with each; `metadata` has counts and texts by name."""

    asset: str
    number: int
    observed_at: datetime
    metadata: Mapping[str, Any]


def observe(connection: psycopg.Connection, asset: str, metadata: Mapping[str, object]) -> None:
    """Record what was found about an asset, unless it is what was recorded last."""
    connection.execute(
        """
        insert into worker_observations as o (asset, metadata) values (%s, %s)
        on conflict (asset) do update set number = o.number + 1, observed_at = now(), metadata = excluded.metadata
        where o.metadata is distinct from excluded.metadata
        """,
        (asset, Jsonb(dict(metadata))),
    )


def observations(connection: psycopg.Connection) -> list[Observation]:
    """Return the latest observation of each asset, by its name."""
    with connection.cursor(row_factory=class_row(Observation)) as cursor:
        return cursor.execute(
            "select asset, number, observed_at, metadata from worker_observations order by asset"
        ).fetchall()


def cases_per_day(connection: psycopg.Connection) -> int | None:
    """Return how many customers the team can call in a day, as the worker that keeps the list knows it.

    None if no worker has made a list yet.
    """
    row = connection.execute(
        "select (metadata ->> 'cases_per_day')::integer from worker_observations where asset = %s", (CALL_LIST,)
    ).fetchone()
    return None if row is None else row[0]
