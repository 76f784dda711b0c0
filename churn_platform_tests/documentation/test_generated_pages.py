"""The generated pages and tables match the code and the database. `make docs-examples` rewrites them."""

import re
from collections.abc import Callable
from functools import partial
from typing import get_args

import psycopg
import pytest

from benchmarks import sizing
from churn_platform.commands.settings import as_env_file, as_markdown, reference
from churn_platform.observability.grafana import DASHBOARDS
from churn_platform.schema.columns import Kind, Missing, Transform
from churn_platform.schema.toml_file import load_schema, parse_schema
from churn_platform.schema.toml_keys import BandsTable, ColumnTable, DataSetTable
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.documentation.generated import (
    alert_table,
    command_page,
    condition_table,
    dashboard_page,
    dictionary,
    key_table,
    metric_table,
    rules_page,
    table_page,
)

FROM_CODE: dict[str, Callable[[], str]] = {
    "docs/reference/cli.md": command_page,
    "docs/reference/settings.md": lambda: as_markdown(reference()),
    ".env.example": lambda: as_env_file(reference()),
    "deploy/prometheus/rules.yml": rules_page,
    **{f"deploy/grafana/dashboards/{each.uid}.json": partial(dashboard_page, each) for each in DASHBOARDS},
}

SIZING_PAGE = "docs/explanation/sizing.md"
SCHEMA_PAGE, DATA_PAGE = "docs/reference/customer-schema.md", "data/README.md"
# A table in a page, between a comment with its name and an empty line.
TABLES: dict[tuple[str, str], Callable[[], str]] = {
    (SCHEMA_PAGE, "data_set"): lambda: key_table(DataSetTable),
    (SCHEMA_PAGE, "columns"): lambda: key_table(ColumnTable),
    (SCHEMA_PAGE, "bands"): lambda: key_table(BandsTable),
    ("docs/reference/operator-conditions.md", "conditions"): condition_table,
    ("docs/reference/metrics.md", "of the worker"): lambda: metric_table("worker"),
    ("docs/reference/metrics.md", "of the database"): lambda: metric_table("database"),
    ("docs/reference/metrics.md", "of the API"): lambda: metric_table("api"),
    ("docs/reference/metrics.md", "alerts"): alert_table,
    (SIZING_PAGE, "measured"): sizing.measured_table,
    (SIZING_PAGE, "needed"): sizing.need_table,
    (SIZING_PAGE, "limits"): sizing.limit_table,
    (SIZING_PAGE, "cost"): sizing.cost_table,
    (SIZING_PAGE, "prices"): sizing.price_table,
    (DATA_PAGE, "bank"): lambda: dictionary(load_schema(PROJECT_ROOT / "data/bank/schema.toml")),
    (DATA_PAGE, "subscribers"): lambda: dictionary(load_schema(PROJECT_ROOT / "data/subscribers/schema.toml")),
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


@pytest.mark.parametrize(("file", "name"), TABLES, ids=[name for _, name in TABLES])
def test_a_generated_table_is_up_to_date(file: str, name: str, rewrite: bool) -> None:
    page = (PROJECT_ROOT / file).read_text()
    written, count = re.subn(
        rf"(?<=<!-- generated: {name} -->\n).*?(?=\n\n)", lambda _: TABLES[file, name](), page, flags=re.DOTALL
    )

    assert count == 1
    _compare(file, written, rewrite=rewrite)


@pytest.mark.parametrize("name", sizing.figures()["measured"])
def test_a_figure_that_sizes_are_computed_from_is_in_its_page(name: str) -> None:
    figure = sizing.figures()["measured"][name]

    assert figure["text"] in " ".join((PROJECT_ROOT / figure["page"]).read_text().split())


@pytest.mark.parametrize("value", [*get_args(Kind), *get_args(Missing), *get_args(Transform)])
def test_every_kind_treatment_and_feature_is_explained(value: str) -> None:
    assert f"| `{value}` |" in (PROJECT_ROOT / SCHEMA_PAGE).read_text()


def test_the_schema_shown_as_an_example_is_valid() -> None:
    page = (PROJECT_ROOT / SCHEMA_PAGE).read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]

    schema = parse_schema(example, origin=SCHEMA_PAGE)
    assert schema.feature_names == ("Orders a year", "Country_FR", "Country_IT", "Country_other")
    assert schema.column("Orders a year").column == "orders_a_year"


def test_the_page_of_tables_is_up_to_date(database: str, rewrite: bool) -> None:
    with psycopg.connect(database) as connection:
        _compare("docs/reference/tables.md", table_page(connection), rewrite=rewrite)
