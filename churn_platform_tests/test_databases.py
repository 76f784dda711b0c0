"""A copy that is used again is as a new one."""

from contextlib import closing

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from churn_platform.local.stack import Stack
from churn_platform_tests.databases import Databases

CREATE_TEMPLATE = """
    create table customers (id int generated always as identity primary key, name text not null,
        length int generated always as (length(name)) stored);
    create table calls (customer int references customers, made timestamptz default now());
    create sequence numbers;
    create function forbid() returns trigger language plpgsql as $$ begin raise 'never' ; end $$;
    create trigger forbid before insert or delete on calls execute function forbid();
    alter table calls disable trigger forbid;
    insert into customers (name) values ('a row that the template has');
    insert into calls (customer) values (1);
    alter table calls enable trigger forbid;
"""
CONTENT = """
    select (select json_agg(c order by id)::text from customers c), (select json_agg(c)::text from calls c),
        (select json_agg(s order by sequencename)::text from pg_sequences s)
"""


class Copies:
    """Copies of one template."""

    def __init__(self, databases: Databases, template: str) -> None:
        self.databases = databases
        self.template = template

    def take(self) -> str:
        """Return the name of a copy."""
        return self.databases.copy(self.template)

    def give_back(self, name: str) -> None:
        """Give a copy back."""
        self.databases.give_back(name, self.template)

    def connect(self, name: str) -> psycopg.Connection:
        """Connect to a copy, in autocommit mode."""
        return psycopg.connect(make_conninfo(self.databases.owner_dsn, dbname=name), autocommit=True)

    def change(self, name: str, statement: str) -> None:
        """Execute a statement in a copy."""
        with self.connect(name) as connection:
            connection.execute(statement.encode())

    def identity(self, name: str) -> tuple[object, ...] | None:
        """Return what tells a database from another one of the same name; None if there is none."""
        with psycopg.connect(self.databases.owner_dsn) as connection:
            return connection.execute("select oid from pg_database where datname = %s", (name,)).fetchone()

    def content(self, name: str) -> tuple[object, ...] | None:
        """Return the rows and the sequences of a copy."""
        with self.connect(name) as connection:
            return connection.execute(CONTENT).fetchone()


@pytest.fixture(scope="module")
def template(stack: Stack) -> str:
    """A template with rows, a sequence, a foreign key and a trigger."""
    name = "template_with_rows"
    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with psycopg.connect(make_conninfo(stack.owner_dsn, dbname=name), autocommit=True) as connection:
        connection.execute(CREATE_TEMPLATE.encode())
    return name


@pytest.fixture(scope="module")
def copies(stack: Stack, template: str) -> Copies:
    """Copies of the template."""
    return Copies(Databases(stack.owner_dsn, prefix="copies"), template)


@pytest.mark.parametrize(
    "change",
    [
        "insert into customers (name) values ('b'), ('c')",
        "update customers set name = 'another'",
        "truncate customers restart identity cascade",
        "select nextval('numbers') from generate_series(1, 5)",
        "create temporary table notes as select 1",
        "analyze",
        "vacuum full customers",
    ],
)
def test_changed_rows_are_restored_in_the_same_database(copies: Copies, change: str) -> None:
    first = copies.take()
    content, identity = copies.content(first), copies.identity(first)
    copies.change(first, change)
    copies.give_back(first)

    second = copies.take()

    assert second != first
    assert copies.identity(first) is None, "nothing can reach it by its old name"
    assert copies.identity(second) == identity
    assert copies.content(second) == content
    copies.give_back(second)


@pytest.mark.parametrize(
    "change",
    [
        "create table more ()",
        "drop table calls",
        "alter table customers add column city text",
        "alter table customers alter column name drop not null",
        "alter table calls drop constraint calls_customer_fkey",
        "alter table calls enable row level security",
        "alter table calls disable trigger forbid",
        "alter table calls alter column made set default null",
        "create index on customers (name)",
        "create view names as select name from customers",
        "create schema elsewhere",
        "alter sequence numbers increment 2",
        "create policy all_rows on calls",
        "create or replace function forbid() returns trigger language plpgsql as 'begin return null; end'",
        "comment on table calls is 'calls'",
        "grant select on customers to public",
        "revoke execute on function pg_sleep(float8) from public",
        "do $$ begin execute format('alter database %I set work_mem = 1000', current_database()); end $$",
        "do $$ begin execute format('alter database %I connection limit 3', current_database()); end $$",
        "do $$ begin execute format('revoke connect on database %I from public', current_database()); end $$",
        "select lo_create(0)",
    ],
)
def test_an_altered_copy_is_replaced(copies: Copies, change: str) -> None:
    first = copies.take()
    content, identity = copies.content(first), copies.identity(first)
    copies.change(first, change)
    copies.give_back(first)

    second = copies.take()

    assert copies.identity(second) != identity
    assert copies.content(second) == content
    copies.give_back(second)


def test_a_copy_that_accepts_no_connections_is_replaced(copies: Copies) -> None:
    first = copies.take()
    identity = copies.identity(first)
    with psycopg.connect(copies.databases.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("alter database {} allow_connections false").format(sql.Identifier(first)))
    copies.give_back(first)

    second = copies.take()

    assert copies.identity(second) != identity
    copies.give_back(second)


def test_sessions_of_a_copy_end_when_it_is_given_back(copies: Copies) -> None:
    name = copies.take()
    with closing(copies.connect(name)) as left_open:
        left_open.execute("begin")
        left_open.execute("insert into customers (name) values ('not committed')")

        copies.give_back(name)

        with pytest.raises(psycopg.OperationalError):
            left_open.execute("commit")


def test_copies_in_use_at_the_same_time_are_different(copies: Copies) -> None:
    names = [copies.take() for _ in range(3)]

    assert len({copies.identity(name) for name in names}) == 3
    for name in names:
        copies.give_back(name)
