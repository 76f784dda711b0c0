"""The generated pages match the code and the database. `make docs-examples` rewrites them."""

from collections.abc import Callable

import psycopg
import pytest

from churn_platform.commands.settings import as_env_file, as_markdown, reference
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.documentation.generated import command_page, table_page

FROM_CODE: dict[str, Callable[[], str]] = {
    "docs/reference/cli.md": command_page,
    "docs/reference/settings.md": lambda: as_markdown(reference()),
    ".env.example": lambda: as_env_file(reference()),
}


@pytest.fixture(scope="session")
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether to rewrite pages instead of comparing them."""
    return bool(request.config.getoption("--rewrite-docs"))


def _compare(file: str, generated: str, *, rewrite: bool) -> None:
    path = PROJECT_ROOT / file
    if rewrite:
        path.write_text(generated)
    assert path.read_text() == generated, f"{file} is out of date: run 'make docs-examples'"


@pytest.mark.parametrize("file", FROM_CODE)
def test_a_generated_page_is_up_to_date(file: str, rewrite: bool) -> None:
    _compare(file, FROM_CODE[file](), rewrite=rewrite)


def test_the_page_of_tables_is_up_to_date(database: str, rewrite: bool) -> None:
    with psycopg.connect(database) as connection:
        _compare("docs/reference/tables.md", table_page(connection), rewrite=rewrite)
