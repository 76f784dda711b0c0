"""The table model_references: the distributions in the training data of each model version."""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import psycopg
from psycopg.types.json import Jsonb


class StoredFeature(TypedDict):
    """The distribution of a feature, as monitoring's FeatureReference explains it."""

    counts: list[int]
    edges: list[float]
    categories: list[str]
    span: list[float]
    dates: bool


def save(connection: psycopg.Connection, version: int, reference: Mapping[str, Any]) -> None:
    """Store the reference of a registered version. Storing it again changes nothing."""
    connection.execute(
        "insert into model_references (version, reference) values (%s, %s) on conflict (version) do nothing",
        (version, Jsonb(dict(reference))),
    )


def find(connection: psycopg.Connection, versions: Iterable[int]) -> dict[int, dict[str, StoredFeature]]:
    """Return the references of these versions, where there are any: version -> feature -> its distribution."""
    rows = connection.execute(
        "select version, reference from model_references where version = any(%s)", (list(versions),)
    )
    return dict(rows.fetchall())
