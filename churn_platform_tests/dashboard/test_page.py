"""Parameters of an address, as a page reads them."""

import pytest
from starlette.datastructures import QueryParams

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.databases import Databases
from churn_platform.dashboard.page import Visit
from churn_platform.dashboard.users import User


@pytest.mark.parametrize(
    ("text", "expected"),
    [("17", 17), ("0", 0), ("100", 100), ("-1", 7), ("101", 7), ("1_7", 7), ("\u0663", 7), ("+17", 7), ("9" * 5000, 7)],
)
def test_a_whole_number_has_ascii_digits_only(config: DashboardConfig, text: str, expected: int) -> None:
    visit = Visit(User("erika", "viewer"), QueryParams({"after": text}), {}, {}, config, Databases(config))

    assert visit.whole_number("after", default=7, least=0, most=100) == expected
