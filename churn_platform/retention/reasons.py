"""Reasons for a risk score as sentences for people who call customers. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from churn_platform.schema.columns import Column, as_words, snake_case
from churn_platform.schema.customer_schema import CustomerSchema

MOST_SENTENCES: Final = 3
RAISES: Final = " raises the risk"
LOWERS: Final = " lowers the risk"
# From this number on, decimals of an amount say nothing.
WHOLE_FROM: Final = 1000


def sentences(reasons: Sequence[Mapping[str, Any]], schema: CustomerSchema) -> list[str]:
    """Return what raises a customer's risk, strongest first, such as "Balance of 125,510 euros raises the risk".

    Args:
        reasons: of high_risk_customers: feature (name of a column), value and contribution to the log-odds.
        schema: names the columns' kinds and units. A column that left it is named without a unit.
    """
    raising = [reason for reason in reasons if reason["contribution"] > 0]
    return [sentence(reason, schema) for reason in raising[:MOST_SENTENCES]]


def sentence(reason: Mapping[str, Any], schema: CustomerSchema) -> str:
    """Return what a reason says, such as "Age of 31 years lowers the risk".

    Args:
        reason: feature (name of a column), value and contribution to the log-odds.
        schema: names the columns' kinds and units. A column that left it is named without a unit.
    """
    name = str(reason["feature"])
    direction = RAISES if reason["contribution"] > 0 else LOWERS
    return f"{_subject(name, reason['value'], schema.by_name.get(name))}{direction}"


def causes(texts: Sequence[str]) -> str:
    """Return the causes that sentences name, for a column that says what they do: "Age of 58 years, Gender: Female"."""
    return ", ".join(text.removesuffix(RAISES).removesuffix(", which") for text in texts)


def _subject(name: str, value: object, column: Column | None) -> str:
    label = as_words(snake_case(name)) if column is None else column.title
    if value is None:
        return f"Unknown {label[0].lower()}{label[1:]}"
    if column is not None and column.kind == "flag":
        return f"{label}: {'yes' if value == 1 else 'no'}, which"
    if isinstance(value, int | float):
        unit = column.unit if column is not None and column.unit is not None else ""
        named_already = label.lower().endswith(unit.lower())
        return f"{label} of {_number(value)}{'' if named_already else f' {unit}'}"
    return f"{label}: {value}, which"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= WHOLE_FROM else f"{value:.4g}"
