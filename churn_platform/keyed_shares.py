"""Shares of customers that a secret key decides: the control group, shadows and canaries. Pure; no I/O.

A value is in a share if its hash is below it, so a larger share keeps everybody of a smaller one. Two keys give
independent shares: who is in one says nothing about the other.
"""

import hmac
import math
from hashlib import sha256
from typing import Final

KEY_BYTES: Final = 32

_HASHES: Final = 2**64  # the first eight bytes of a digest
_BLOCK_BYTES: Final = 64  # of SHA-256, to which HMAC pads a key


def is_in_share(customer_id: int | str, *, key: bytes, share: float) -> bool:
    """Return whether a customer is in the share of a key. It depends on nothing but the arguments.

    Args:
        customer_id: as the customer schema has it.
        key: secret, at least 32 random bytes. Without it nobody can tell which customers are in the share.
        share: of the customers, 0..1.

    Source: HMAC-SHA256 (RFC 2104) of the id's decimal digits or UTF-8 text, read as a fraction of 2^64.
    """
    digest = hmac.digest(key, str(customer_id).encode(), sha256)
    return int.from_bytes(digest[:8], "big") < share * _HASHES


def padded_keys(key: bytes) -> tuple[bytes, bytes]:
    """Return the inner and outer key of HMAC-SHA256, for programs that only have SHA-256, such as PostgreSQL.

    HMAC of a message is sha256(outer + sha256(inner + message)).

    Args:
        key: at most 64 bytes.
    """
    block = key.ljust(_BLOCK_BYTES, b"\0")
    return bytes(each ^ 0x36 for each in block), bytes(each ^ 0x5C for each in block)


def share_bound(share: float) -> bytes:
    """Return nine bytes: a customer is in the share if 0 and the first eight bytes of the hash are less than these.

    Args:
        share: of the customers, 0..1.
    """
    return math.ceil(share * _HASHES).to_bytes(9, "big")
