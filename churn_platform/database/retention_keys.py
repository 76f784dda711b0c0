"""The table retention_keys: the secret that decides which customers are in the control group."""

import secrets

import psycopg

from churn_platform.keyed_shares import KEY_BYTES


def ensure_key(connection: psycopg.Connection) -> bytes:
    """Return the key. The first call creates it, so a database that is copied from an empty template has its own."""
    connection.execute(
        "insert into retention_keys (key) values (%s) on conflict do nothing", (secrets.token_bytes(KEY_BYTES),)
    )
    row = connection.execute("select key from retention_keys").fetchone()
    if row is None:
        raise RuntimeError("retention_keys has no row right after an insert; PostgreSQL always has it.")
    return bytes(row[0])
