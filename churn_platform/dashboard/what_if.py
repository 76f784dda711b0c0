"""The form in which somebody changes values of a customer: its fields, and what was changed. Pure.

It follows from the customer schema: it has the columns that the model reads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from churn_platform.dashboard.customer_values import UNKNOWN, column_label
from churn_platform.schema.columns import OTHER, Column
from churn_platform.schema.customer_schema import CustomerSchema

MOST_CHANGES_OF_CALLERS: Final = 1
"""Values that the retention team may change at once. With more, they could type in a customer of the control group and
learn its risk: most have a neighbour who differs in three columns."""
_PREFIX: Final = "value-"


@dataclass(frozen=True)
class Field:
    """One value of the form.

    Attributes:
        column: of the customer schema.
        label: for people.
        own: the customer's own value, as the form writes it; empty if it is unknown.
        text: what the form shows: the own value, or what was typed.
        choices: values and texts to choose from; empty for a number or a date.
    """

    column: Column
    label: str
    own: str
    text: str
    choices: Sequence[tuple[str, str]]

    @property
    def name(self) -> str:
        """Its name in the form."""
        return f"{_PREFIX}{self.column.column}"

    @property
    def unit(self) -> str:
        """The unit to show beside the label; empty if there is none, or if the label contains it."""
        unit = self.column.unit or ""
        return "" if unit.lower() in self.label.lower() else unit

    @property
    def is_changed(self) -> bool:
        """Whether another value than the customer's own was typed."""
        return self.text != self.own

    @property
    def value(self) -> object:
        """The typed value for an event. What is not a number stays a text, which the API refuses with the reason."""
        if self.text == "":
            return None
        if not self.column.is_number:
            return self.text
        for convert in (int, float):
            try:
                value = convert(self.text)
            except ValueError:
                continue
            if math.isfinite(value):
                return value
        return self.text


def fields_of(
    schema: CustomerSchema, values: Mapping[str, object], form: Mapping[str, str] | None = None
) -> list[Field]:
    """Return the fields of the form, in the order of the schema.

    Args:
        schema: of the customers.
        values: the customer's own, by their names in tables.
        form: what was typed; None for the customer's own values.
    """
    found = []
    for column in schema.stored:
        if not column.transforms:
            continue
        own = _text(values[column.column])
        typed = own if form is None else form.get(f"{_PREFIX}{column.column}", own).strip()
        found.append(Field(column, column_label(schema, column.name), own, typed, _choices(column, own)))
    return found


def event_of(schema: CustomerSchema, customer_id: int | str, values: Mapping[str, object]) -> dict[str, object]:
    """Return the customer as an event.

    Args:
        schema: of the customers.
        customer_id: of the customer.
        values: by their names in tables.
    """
    return {schema.id: customer_id, **{column.name: values[column.column] for column in schema.stored}}


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, date) else str(value).removesuffix(".0")


def _choices(column: Column, own: str) -> list[tuple[str, str]]:
    if column.kind == "flag":
        found = [("1", "yes"), ("0", "no")]
    elif column.kind == "category":
        others = [OTHER] if column.unknown == "other" else []
        names = dict.fromkeys([*column.categories, *([own] if own else []), *others])
        found = [(name, name) for name in names]
    else:
        return []
    return [*found, ("", UNKNOWN)] if column.scored_if_missing else found
