"""Documents without one customer: Dagster's events, which are JSON, and texts. Pure; no I/O."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from churn_platform.decoding.named_customers import named_customers
from churn_platform.schema.customer_schema import CustomerSchema

ERASED: Final = "(erased)"
"""What replaces an id in a text."""
# A shorter number is as likely a count as an id, so in texts it counts as one only behind a word such as "customer".
LONG: Final = 6


@dataclass(frozen=True)
class Mentions:
    """Recognizes a customer in documents.

    Attributes:
        schema: of the customers.
        customer_id: of the customer.
    """

    schema: CustomerSchema
    customer_id: int | str

    @cached_property
    def _in_text(self) -> re.Pattern[str]:
        own = rf"(?<![0-9A-Za-z.]){re.escape(str(self.customer_id))}(?![0-9A-Za-z])"
        if len(str(self.customer_id)) >= LONG:
            return re.compile(own)
        names = "|".join(("customers?(?:_id| id)?", re.escape(self.schema.id)))
        return re.compile(rf"((?:{names})[^0-9A-Za-z]{{1,4}}){own}", re.IGNORECASE)

    def without(self, text: str) -> str:
        """Return a text with ERASED instead of the id."""
        return self._in_text.sub(lambda found: (found[1] if found.lastindex else "") + ERASED, text)

    def names(self, row: object) -> bool:
        """Return whether a row, a dictionary by column, is about the customer."""
        if not isinstance(row, dict):
            return False
        if any(row.get(name) in self._forms for name in ("customer_id", self.schema.id)):
            return True
        values = row.get("values")  # of a quarantined row: its texts as JSON
        return isinstance(values, str) and self.customer_id in named_customers(values.encode(), self.schema)

    @cached_property
    def _forms(self) -> tuple[int | str, ...]:
        return (self.customer_id, str(self.customer_id))

    def erase(self, document: str) -> tuple[str, int]:
        """Return a document without the rows and mentions of the customer, and how many there were.

        Args:
            document: JSON; anything else is a text.
        """
        try:
            content = json.loads(document)
        except ValueError:
            changed = self.without(document)
            return changed, int(changed != document)
        count = [0]
        changed = json.dumps(self._erased(content, count))
        return (changed, count[0]) if count[0] else (document, 0)

    def rows_in(self, document: str) -> list[dict[str, object]]:
        """Return the rows of the customer that a document has, which is JSON."""
        try:
            content = json.loads(document)
        except ValueError:
            return []
        return list(self._rows_below(content))

    def _rows_below(self, content: object) -> Iterator[dict[str, object]]:
        if isinstance(content, dict):
            if self.names(content):
                yield content
                return
            for each in content.values():
                yield from self._rows_below(each)
        elif isinstance(content, list):
            for each in content:
                yield from self._rows_below(each)
        elif isinstance(content, str) and content[:1] in ("{", "[") and str(self.customer_id) in content:
            yield from self.rows_in(content)

    def _erased(self, content: object, count: list[int]) -> object:
        if isinstance(content, str):
            return self._erased_text(content, count)
        if isinstance(content, list):
            kept = [each for each in content if not any(map(self.names, _rows(each)))]
            count[0] += len(content) - len(kept)
            return [self._erased(each, count) for each in kept]
        if isinstance(content, dict):
            if self.names(content):
                count[0] += 1
                return dict.fromkeys(content)
            return {name: self._erased(value, count) for name, value in content.items()}
        return content

    def _erased_text(self, text: str, count: list[int]) -> str:
        if text[:1] in ("{", "[") and str(self.customer_id) in text:
            changed, found = self.erase(text)  # JSON in JSON
        else:
            changed = self.without(text)
            found = int(changed != text)
        count[0] += found
        return changed


def _rows(element: object) -> Iterator[object]:
    """Yield what may be a row of a table: Dagster keeps the values of a record below `data`."""
    yield element
    if isinstance(element, dict):
        yield element.get("data")
