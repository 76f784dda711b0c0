"""What a page is: its place in the navigation, and a function that answers a request."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import psycopg
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import QueryParams
from starlette.responses import Response

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.users import User
from churn_platform.schema.customer_schema import CustomerSchema

if TYPE_CHECKING:
    from churn_platform.dashboard.databases import Databases


class _NumberConvertor(Convertor[int]):
    """A whole number in a path, such as {case_id:number}. Longer ones are no address of a page.

    Starlette's own "int" takes any number of digits, and fails at more than Python converts.
    """

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _NumberConvertor())
_WHOLE: Final = re.compile(f"-?{_NumberConvertor.regex}")


@dataclass(frozen=True)
class Visit:
    """A request for a page.

    Attributes:
        user: who asks.
        query: the parameters of the address, such as filters.
        form: what a form has sent; empty for a request that changes nothing.
        place: the parts of the path that the page names in braces.
        config: of the dashboard.
        databases: to read from, and to change cases.
        now: the present time in UTC.
    """

    user: User
    query: QueryParams
    form: Mapping[str, str]
    place: Mapping[str, str]
    config: DashboardConfig
    databases: "Databases"
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def schema(self) -> CustomerSchema:
        """The customer schema."""
        return self.config.schema

    @property
    def hides_controls(self) -> bool:
        """Whether the user must not learn the risk of customers in the control group."""
        return self.user.role == "retention"

    @property
    def may_change_cases(self) -> bool:
        """Whether the user may change cases."""
        return self.user.role == "retention"

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """Return a parameter of the address that has to be one of some values; the default if it is not."""
        value = self.query.get(name, default)
        return value if value in choices else default

    def text(self, name: str) -> str:
        """Return a parameter of the address without spaces around it; empty if it is missing."""
        return self.query.get(name, "").strip()

    def whole_number(self, name: str, *, default: int, least: int, most: int) -> int:
        """Return a parameter of the address that is a whole number; the default if it is not, or out of range."""
        text = self.query.get(name, "")
        if not _WHOLE.fullmatch(text):  # int() also takes underscores, spaces and the digits of other scripts
            return default
        value = int(text)
        return value if least <= value <= most else default

    def address(self, path: str, **changes: str | int | None) -> str:
        """Return an address with the filters of this one.

        Args:
            path: of the page.
            changes: parameters that differ; None removes one.
        """
        kept = {name: value for name, value in self.query.items() if name not in changes and value}
        given = {name: str(value) for name, value in changes.items() if value is not None}
        query = urlencode({**kept, **given})
        return f"{path}?{query}" if query else path


@dataclass(frozen=True)
class View:
    """The content of a page.

    Attributes:
        template: its file in templates/.
        title: of the page.
        values: that the template shows.
        refresh: seconds after which an open page is renewed; None for one that is not.
        status: of the HTTP answer.
    """

    template: str
    title: str
    values: Mapping[str, object]
    refresh: int | None = None
    status: int = 200


Read = Callable[[Visit, psycopg.Connection], View | Response]
"""Answers with what it reads in one transaction."""
Change = Callable[[Visit], View | Response]
"""Does what a form asks for, and leads to a page, or shows one."""


@dataclass(frozen=True)
class Page:
    """A page, or another answer such as a file.

    Attributes:
        path: with the names of its variable parts in braces, as Starlette writes them; whole numbers as {name:number}.
        read: answers a GET; None if only a form leads here.
        label: in the navigation; empty if it is not there.
        change: answers a POST of a form; None if there is no form.
        seconds: how long a statement of `read` may take.
    """

    path: str
    read: Read | None = None
    label: str = ""
    change: Change | None = None
    seconds: int = 5
