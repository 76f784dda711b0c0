"""The status of a case, and how it may change. Pure.

The database enforces the same rules (the function case_status_allowed), because the team's own tools may write there.
Taking back a change restores the status before it, whatever these rules say: see `take_back` in
database/retention_cases.py.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args

Status = Literal["open", "assigned", "contacted", "kept", "lost", "dismissed", "expired"]

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
WAITING: Final[tuple[Status, ...]] = ("open", "assigned")
"""The customer has not been called yet."""
CLOSED: Final[tuple[Status, ...]] = ("kept", "lost", "dismissed", "expired")
"""`expired` is for the platform: the risk fell, or nobody called in time."""

ALLOWED: Final[Mapping[Status, tuple[Status, ...]]] = {
    "open": ("assigned", "contacted", *CLOSED),
    "assigned": ("open", "contacted", *CLOSED),
    "contacted": ("kept", "lost", "expired"),
    **dict.fromkeys(CLOSED, ()),
}


def is_allowed(before: Status, after: Status) -> bool:
    """Return whether a case may change from one status to another."""
    return after in ALLOWED[before]
