"""The arm of a customer: called if at risk, or in the control group, which is never called. Pure."""

import hmac
from hashlib import sha256
from typing import Final, Literal

Arm = Literal["contact", "control"]
CONTACT: Final[Arm] = "contact"
CONTROL: Final[Arm] = "control"

_HASHES: Final = 2**64  # the first eight bytes of a digest


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
