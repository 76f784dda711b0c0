"""The arm of a customer: called if at risk, or in the control group, which is never called. Pure."""

from typing import Final, Literal

from churn_platform.keyed_shares import is_in_share

Arm = Literal["contact", "control"]
CONTACT: Final[Arm] = "contact"
CONTROL: Final[Arm] = "control"


def arm_of(customer_id: int | str, *, key: bytes, control_share: float) -> Arm:
    """Return the arm of a customer. It depends on nothing but the arguments.

    A customer whose hash is below the share is a control. So a larger share keeps all controls of a smaller one.

    Args:
        customer_id: as the customer schema has it.
        key: secret, at least 32 random bytes. Without it nobody can tell which customers are controls.
        control_share: of the customers, 0..1.
    """
    return CONTROL if is_in_share(customer_id, key=key, share=control_share) else CONTACT
