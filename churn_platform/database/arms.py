"""The arm of a customer as an expression of SQL: what retention/arm.py computes in Python."""

from dataclasses import dataclass
from typing import Final

from psycopg import sql

# The first eight bytes of HMAC-SHA256 of the id, compared as a whole number: see keyed_shares.py.
_ARM: Final = sql.SQL("""
    case when '\\x00'::bytea || substring(
            sha256(%(outer)s::bytea || sha256(%(inner)s::bytea || convert_to({customer_id}::text, 'UTF8')))
            from 1 for 8
        ) < %(controls_below)s::bytea
        then 'control' else 'contact' end
""")


@dataclass(frozen=True)
class ArmKey:
    """What decides the arm of a customer, as retention/arm.py defines it.

    Attributes:
        inner: key of HMAC-SHA256 with the inner padding.
        outer: key with the outer padding.
        controls_below: first nine bytes, the first of which is 0, that are not those of a control.
    """

    inner: bytes
    outer: bytes
    controls_below: bytes


def arm_of_row(table: str) -> sql.Composed:
    """Return the expression for the arm of a table's row with a customer_id. Its parameters are those of an ArmKey."""
    return _ARM.format(customer_id=sql.Identifier(table, "customer_id"))
