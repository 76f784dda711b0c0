"""The customers' columns that the metrics average: the names of their sums, counts and averages in tables. Pure."""

from dataclasses import dataclass
from functools import cache

from churn_platform.schema.customer_schema import CustomerSchema


@dataclass(frozen=True, slots=True)
class Average:
    """A column of churn_predictions that the hourly and daily metrics average.

    Attributes:
        column: its name in churn_predictions.
        may_be_missing: whether its value may be null, so that the known values are counted.
        unit: of its values, or None.
    """

    column: str
    may_be_missing: bool
    unit: str | None

    @property
    def sum(self) -> str:
        """Name of the sum in churn_batch_hours."""
        return f"{self.column}_sum"

    @property
    def count(self) -> str:
        """Name of the number of known values, if some may be missing."""
        return f"{self.column}_count"

    @property
    def average(self) -> str:
        """Name of the average in the metrics tables."""
        return f"avg_{self.column}"


@cache
def averages(schema: CustomerSchema) -> tuple[Average, ...]:
    """Return the averages of a schema, in the order of the tables."""
    return tuple(Average(column.column, column.scored_if_missing, column.unit) for column in schema.averaged)


def count_names(schema: CustomerSchema) -> tuple[str, ...]:
    """Return the names of the counts of known values, in the order of the tables."""
    return tuple(each.count for each in averages(schema) if each.may_be_missing)
