"""The page about BI tools: its tables, columns and roles exist, its queries run, and its login may do what it says."""

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.local.environment import READER_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.documentation.pages import fences

PAGE = PROJECT_ROOT / "docs" / "how-to" / "connect-bi-tools.md"
LOGIN = "churn_bi"
# Names in code spans that are neither a table nor a column: of PostgreSQL, of a driver, of a schedule in Dagster.
OTHER_NAMES = {"pg_stat_activity", "pg_hba.conf", "retention_effect_schedule"}
SQL = [fence.body for fence in fences(PAGE) if fence.language == "sql"]
QUERIES = [body for body in SQL if body.startswith("select")]
(STATEMENTS,) = [body for body in SQL if body not in QUERIES]


def named() -> set[str]:
    """Return the names with an underscore or a dot in the code spans of the page."""
    text = re.sub(r"^ *```.*?^ *```$", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", text)
    return {span for span in spans if re.fullmatch(r"[a-z0-9]+(?:[_.][a-z0-9]+)+", span)} - OTHER_NAMES


@pytest.fixture
def reader(stack: Stack, database: str) -> Iterator[psycopg.Connection]:
    """The read-only login, in a migrated database."""
    name = str(conninfo_to_dict(database)["dbname"])
    with psycopg.connect(make_conninfo(stack.environment[READER_VARIABLE], dbname=name)) as connection:
        yield connection


def test_every_table_and_column_that_is_named_exists_and_can_be_read(reader: psycopg.Connection) -> None:
    columns = {
        f"{table}.{column}"
        for table, column in reader.execute(
            "select table_name, column_name from information_schema.columns where table_schema = 'public'"
        )
    }
    tables = {each.partition(".")[0] for each in columns}
    roles = {name for (name,) in reader.execute("select rolname from pg_roles")}
    single = {each.partition(".")[2] for each in columns}

    assert {name for name in named() if "." in name} <= columns
    assert {name for name in named() if "." not in name} <= tables | roles | single
    assert len(named() & tables) > 20


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: re.findall(r"from (\w+)", query)[0])
def test_every_query_runs_with_the_login_of_readers(query: str, reader: psycopg.Connection) -> None:
    assert reader.execute(query.encode()).fetchall() == []


@pytest.fixture
def login(stack: Stack, database: str) -> Iterator[str]:
    """The connection string of the login that the page creates."""
    name = str(conninfo_to_dict(database)["dbname"])
    (password,) = re.findall(r"password '(.*)'", STATEMENTS)
    with psycopg.connect(make_conninfo(stack.owner_dsn, dbname=name), autocommit=True) as owner:
        owner.execute(STATEMENTS.encode())
        try:
            yield make_conninfo(database, user=LOGIN, password=password)
        finally:
            owner.execute(f"drop role {LOGIN}".encode())


def test_the_login_reads_for_at_most_half_a_minute_and_not_the_key_of_the_control_group(login: str) -> None:
    with psycopg.connect(login, autocommit=True) as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("30s",)
        assert connection.execute("show timezone").fetchone() == ("UTC",)
        assert connection.execute("select count(*) from customer_summary").fetchone() == (0,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("delete from customer_summary")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select key from retention_keys")
