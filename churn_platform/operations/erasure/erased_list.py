"""The list of erased customers beside the database: a restored backup may be older than an erasure.

The file holds the key and the hashes, no id. Whoever can read it can find out whether a customer with a known id was
erased, so it is as private as the other files below the artifacts root, which hold customers.
"""

import json
from base64 import b64decode, b64encode
from typing import Final

import psycopg

from churn_platform.database import customer_rows, erased_customers
from churn_platform.decoding.named_customers import named_customers
from churn_platform.files.artifacts import ASSETS, exists, join, read_bytes, write_bytes
from churn_platform.operations.erasure import stored_files
from churn_platform.operations.exceptions import ErasureError
from churn_platform.schema.customer_schema import CustomerSchema

NAME: Final = ".erased-customers.json"


def save(connection: psycopg.Connection, root: str) -> None:
    """Write the list below the artifacts root."""
    erased = erased_customers.load(connection)
    content = {"key": _text(erased.key), "hashes": sorted(map(_text, erased.hashes))}
    write_bytes(_place(root), json.dumps(content).encode())


def restore(connection: psycopg.Connection, root: str) -> int:
    """Add to the database's list those of the file; return how many are new.

    Args:
        connection: in autocommit mode.
        root: the artifacts root.

    Raises:
        ErasureError: the database has another list, with another key.
    """
    if not exists(_place(root)):
        return 0
    content = json.loads(read_bytes(_place(root)))
    with connection.transaction():
        erased_customers.lock(connection)
        try:
            return erased_customers.restore(connection, b64decode(content["key"]), [*map(b64decode, content["hashes"])])
        except ValueError as error:
            raise ErasureError(
                f"The list of erased customers in {_place(root)} was made with another key than that of the database, "
                f"so the two cannot be joined.",
                remedy="Set CHURN_ARTIFACTS to the folder of this database, or move the file away and erase its "
                "customers again one by one.",
            ) from error


def stored_again(connection: psycopg.Connection, root: str, schema: CustomerSchema) -> list[int | str]:
    """Return the erased customers of whom something is stored, as after a restore from a backup.

    Args:
        connection: to the platform's database.
        root: the artifacts root.
        schema: of the customers.
    """
    erased = erased_customers.load(connection)
    if not erased:
        return []
    stored = set(customer_rows.customers(connection))
    for payload in customer_rows.unused_messages(connection):
        stored |= named_customers(payload, schema)
    stored |= stored_files.customers(root, schema)
    return [each for each in stored if each in erased]


def _place(root: str) -> str:
    return join(root, ASSETS, NAME)


def _text(content: bytes) -> str:
    return b64encode(content).decode()
