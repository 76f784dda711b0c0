"""The tables erasure_state and erased_customers: who was erased, by keyed hashes of their ids.

Whatever writes rows of customers asks this list. So that no row of a customer is written while the customer is being
erased, there are two rules:

- A transaction that writes rows of customers calls hold_off() as its first statement, and reads the list after it.
- A commit of the stream calls nothing, because a commit is a single statement. It names the version of the list that
  its events were decoded with, and fails if there is a later one (see ledger.py). An erasure locks stream_batches,
  which every commit changes: PostgreSQL takes a statement's locks before its snapshot, so a commit is either visible to
  the erasure, or sees its version.
"""

import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg.rows import scalar_row

KEY_BYTES: Final = 32
# Ids that are known not to be erased, so that the hash of a customer with many events is computed once. 200,000 ids
# take about 20 MB.
REMEMBERED: Final = 200_000

VERSION: Final = "coalesce((select version from erasure_state where only_row), 0)"
"""SQL of the version of the list; 0 while nobody was erased."""
# Part of the statement of a commit (see ledger.py).
REQUIRE_VERSION: Final = f"""
    case when {VERSION} <> %(erasures)s::bigint then fail_with_other_erasures({VERSION}, %(erasures)s::bigint) end
"""
# SQLSTATE of fail_with_other_erasures(), in a class that PostgreSQL leaves to its users.
OTHER_ERASURES: Final = "CH002"

_LOAD: Final = """
    select version, key, (select coalesce(array_agg(hash), '{}') from erased_customers) from erasure_state
"""
_ENSURE_KEY: Final = "insert into erasure_state (key) values (%s) on conflict do nothing"


class ErasuresChangedError(Exception):
    """A customer was erased after the events of a commit were decoded. Nothing was written. Decode them again."""


@dataclass(frozen=True)
class ErasedCustomers:
    """The customers who were erased, as of one version of the list. Threads may share it.

    Attributes:
        version: of the list; 0 if nobody was ever erased.
        key: of the hashes.
        hashes: of the ids.
    """

    version: int = 0
    key: bytes = field(default=b"", repr=False)
    hashes: frozenset[bytes] = frozenset()
    _others: set[int | str] = field(default_factory=set, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, customer_id: object) -> bool:
        """Return whether the customer with this id, an int or a str, was erased."""
        if not self.hashes or not isinstance(customer_id, int | str) or customer_id in self._others:
            return False
        if hash_of(customer_id, self.key) in self.hashes:
            return True
        if len(self._others) >= REMEMBERED:
            self._others.clear()
        self._others.add(customer_id)
        return False

    def among(self, customer_ids: Sequence[int | str]) -> list[bool]:
        """Return for each of these customers whether it was erased.

        With 10,000 erased customers it takes 2 us for an id that is new, and 0.1 us for one that is remembered.
        """
        if not self.hashes:
            return [False] * len(customer_ids)
        others = self._others
        return [each not in others and each in self for each in customer_ids]


NOBODY: Final = ErasedCustomers()


def hash_of(customer_id: int | str, key: bytes) -> bytes:
    """Return the 32 bytes that stand for a customer in the list."""
    return hmac.digest(key, str(customer_id).encode(), "sha256")


def load(connection: psycopg.Connection) -> ErasedCustomers:
    """Return the present list."""
    row = connection.execute(_LOAD).fetchone()
    return NOBODY if row is None else ErasedCustomers(row[0], bytes(row[1]), frozenset(map(bytes, row[2])))


def load_again(connection: psycopg.Connection, known: ErasedCustomers) -> ErasedCustomers:
    """Return the present list: the same object if it has not grown since."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        version = cursor.execute(f"select {VERSION}").fetchone()
    return known if version == known.version else load(connection)


def hold_off(connection: psycopg.Connection) -> None:
    """Hold off erasures until the caller's transaction ends; wait for one that is running.

    It has to be the first statement of a transaction: one with repeatable read gets its snapshot with the next one.
    """
    connection.execute("lock table erasure_state in row share mode")


def lock(connection: psycopg.Connection) -> None:
    """Wait for all transactions that hold off erasures, and exclude others until the caller's transaction ends."""
    connection.execute("lock table erasure_state in exclusive mode")


def add(connection: psycopg.Connection, customer_id: int | str) -> bool:
    """Add a customer to the list, in a transaction that has called lock(); return whether the list did not have it."""
    connection.execute(_ENSURE_KEY, (secrets.token_bytes(KEY_BYTES),))
    known = load(connection)
    added = connection.execute(
        "insert into erased_customers (hash) values (%s) on conflict do nothing", (hash_of(customer_id, known.key),)
    ).rowcount
    if added:
        connection.execute("update erasure_state set version = version + 1")
    return added == 1


def restore(connection: psycopg.Connection, key: bytes, hashes: Collection[bytes]) -> int:
    """Add hashes that were made with a key, in a transaction that has called lock(); return how many are new.

    Raises:
        ValueError: the database has another key.
    """
    connection.execute(_ENSURE_KEY, (key,))
    if load(connection).key != key:
        raise ValueError("erasure_state has another key than these hashes were made with.")
    added = connection.execute(
        "insert into erased_customers (hash) select unnest(%s::bytea[]) on conflict do nothing", (list(hashes),)
    ).rowcount
    if added:
        connection.execute("update erasure_state set version = version + 1")
    return added
