"""Customers files for tests: the two schemas, and rows that both accept."""

from collections.abc import Mapping
from pathlib import Path

from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT

BANK = load_schema(PROJECT_ROOT / "data/bank/schema.toml")
SUBSCRIBERS = load_schema(PROJECT_ROOT / "data/subscribers/schema.toml")

HEADER = ",".join(BANK.names)
ROWS = (
    "1,15600001,Ada,Weber,619,France,Female,42,2,0,1,1,1,101348.5,1",
    "2,15600002,,,502,Germany,,,8,159660.8,3,1,0,113931,0",
)
SUBSCRIBER: Mapping[str, str] = {
    "SubscriberId": "S-100001",
    "SignupDate": "2025-08-31",
    "LastContact": "2026-09-30",
    "Plan": "Basic",
    "Contract": "One year",
    "Payment method": "Card",
    "Internet": "Fibre",
    "Region": "East",
    "PaperlessBilling": "Yes",
    "PhoneService": "Yes",
    "OnlineSecurity": "No internet service",
    "TechSupport": "No",
    "Streaming": "No",
    "Devices": "4",
    "SupportCalls": "3",
    "Outages": "0",
    "DataUsage": "12.25",
    "MonthlyCharge": "37.51",
    "TotalCharges": "1473.5",
    "Churn": "No",
}


def customers_file(folder: Path, *lines: str) -> Path:
    """Write these lines to a file and return its path."""
    path = folder / "customers.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def bank_row(number: int = 0, **values: str) -> str:
    """Return a line of the bank's file with other values and another CustomerId."""
    given = dict(zip(BANK.names, ROWS[0].split(","), strict=True))
    return ",".join((given | {"CustomerId": str(15_600_100 + number)} | values).values())


def subscriber(number: int = 0, **values: str) -> dict[str, str]:
    """Return a subscriber with another number and other values."""
    return {**SUBSCRIBER, "SubscriberId": f"S-{200_000 + number}", **values}


def csv_of(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    """Return rows as CSV; values with the delimiter get quotes."""
    quoted = [[f'"{text}"' if delimiter in text else text for text in row.values()] for row in rows]
    return "\n".join(delimiter.join(row) for row in [list(rows[0]), *quoted]) + "\n"
