"""The arm of a customer: called if at risk, or in the control group, which is never called. Pure."""

import hmac
import math
from hashlib import sha256
from typing import Final, Literal

Arm = Literal["contact", "control"]
CONTACT: Final[Arm] = "contact"
CONTROL: Final[Arm] = "control"

_HASHES: Final = 2**64  # the first eight bytes of a digest
_BLOCK_BYTES: Final = 64  # of SHA-256, to which HMAC pads a key


def arm_of(customer_id: int | str, *, key: bytes, control_share: float) -> Arm:
    """Return the arm of a customer. It depends on nothing but the arguments.

    A customer whose hash is below the share is a control. So a larger share keeps all controls of a smaller one.

    Args:
        customer_id: as the customer schema has it.
        key: secret, at least 32 random bytes. Without it nobody can tell which customers are controls.
        control_share: of the customers, 0..1.

    Source: HMAC-SHA256 (RFC 2104) of the id's decimal digits or UTF-8 text, read as a fraction of 2^64.
    """
    digest = hmac.digest(key, str(customer_id).encode(), sha256)
    return CONTROL if int.from_bytes(digest[:8], "big") < control_share * _HASHES else CONTACT


def padded_keys(key: bytes) -> tuple[bytes, bytes]:
    """Return the inner and outer key of HMAC-SHA256, for programs that only have SHA-256, such as PostgreSQL.

    HMAC of a message is sha256(outer + sha256(inner + message)).

    Args:
        key: at most 64 bytes.
    """
    block = key.ljust(_BLOCK_BYTES, b"\0")
    return bytes(each ^ 0x36 for each in block), bytes(each ^ 0x5C for each in block)


def controls_below(control_share: float) -> bytes:
    """Return nine bytes: a customer is a control if 0 and the first eight bytes of the hash are less than these.

    Args:
        control_share: of the customers, 0..1.
    """
    return math.ceil(control_share * _HASHES).to_bytes(9, "big")
