"""Addresses of pages that other pages link to: customers, and what Dagster knows of a batch. Pure."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

CUSTOMERS = "/customers"
SEGMENTS = "/segments"
TRENDS = "/trends"
WHAT_IF = "/what-if"


def customer(customer_id: int | str) -> str:
    """Return the address of a customer's own page."""
    return f"{CUSTOMERS}/{quote(str(customer_id), safe='')}"


def customers(*, segments: Mapping[str, str] | None = None, band: str = "") -> str:
    """Return the address of the list of customers.

    Args:
        segments: only customers with these values or bands, by the segment's name in tables.
        band: only customers with this risk, as `risk_bands.BANDS` names it.
    """
    chosen = {segment_parameter(name): value for name, value in (segments or {}).items()}
    query = urlencode({**chosen, **({"band": band} if band else {})})
    return f"{CUSTOMERS}?{query}" if query else CUSTOMERS


def trends(segment: str, value: str) -> str:
    """Return the address of the trend of the customers with a value in a segment.

    Args:
        segment: its name in tables.
        value: the value or band.
    """
    return f"{TRENDS}?{urlencode({'customers': f'{segment}:{value}'})}"


def segments(first: str, second: str) -> str:
    """Return the address of two segments crossed, by their names in tables."""
    return f"{SEGMENTS}?{urlencode({'by': first, 'and': second})}"


def segment_parameter(column: str) -> str:
    """Return the parameter that chooses a segment. No other parameter can have its name."""
    return f"segment-{column}"


def batch(dagster_url: str, key: str) -> str:
    """Return where the Dagster UI shows a batch of predictions; empty if pages do not link to it."""
    return (
        f"{dagster_url}/assets/churn_predictions?{urlencode({'view': 'partitions', 'partition': key})}"
        if dagster_url
        else ""
    )
