"""Generated reference pages: the commands from the typer app, the tables from a migrated database."""

import html
import re
from collections.abc import Iterator
from typing import LiteralString

import psycopg
from typer import Context
from typer.cli import get_docs_for_click

from churn_platform_tests.commands.tree import root

COLUMNS: LiteralString = """
select class.relname, class.relkind = 'v', coalesce(obj_description(class.oid, 'pg_class'), ''),
       attribute.attname, format_type(attribute.atttypid, attribute.atttypmod), attribute.attnotnull,
       coalesce(col_description(class.oid, attribute.attnum), '')
from pg_class class join pg_attribute attribute on attribute.attrelid = class.oid
where class.relnamespace = 'public'::regnamespace and class.relkind in ('r', 'p', 'v')
  and class.relname <> 'schema_migrations' and attribute.attnum > 0 and not attribute.attisdropped
order by class.relkind = 'v', class.relname, attribute.attnum
"""


def command_page() -> str:
    """Return the page of commands with their arguments and options, as typer documents them."""
    group = root()
    text = get_docs_for_click(obj=group, ctx=Context(group, info_name="churn"), name="churn", title="Commands")
    text = html.unescape(text).replace("```console\n$ ", "```text\n")  # a usage line is not a command to run
    text = re.sub(r"^(#+) `(.*)`$", r"\1 \2", text, flags=re.MULTILINE)
    text = re.sub(r"^\* (`--(?:install|show)-completion`|`--help`): .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+", "", text)  # abbreviated lists; each command has its own heading
    text = re.sub(r"\*\*Options\*\*:\n+(?!\* )", "", text)
    text = re.sub(r"^Example: (.*)$", r"**Example**: `\1`", text, flags=re.MULTILINE)
    note = "This page is generated from the commands: see [Documentation](../contributing.md#documentation)."
    return re.sub(r"\n{3,}", "\n\n", text).replace("\n", f"\n\n{note}\n", 1).rstrip() + "\n"


def table_page(connection: psycopg.Connection) -> str:
    """Return the page of tables and views with their columns, types and comments."""
    return "\n".join(_table_lines(connection)) + "\n"


def _table_lines(connection: psycopg.Connection) -> Iterator[str]:
    yield "# Tables"
    yield ""
    yield "This page is generated from the database: see [Documentation](../contributing.md#documentation)."
    yield "`psql` shows the same with `\\d+ churn_predictions`."
    table = None
    for name, is_view, about, column, kind, required, comment in connection.execute(COLUMNS):
        if name != table:
            table = name
            yield ""
            yield f"## {name}"
            yield ""
            yield from (f"{_cell('View. ' if is_view else '')}{_cell(about)}".strip() or "No description.", "")
            yield "| Column | Type | Meaning |"
            yield "|---|---|---|"
        nullable = "" if required or is_view else " or null"
        yield f"| `{column}` | {kind}{nullable} | {_cell(comment)} |"


def _cell(text: str) -> str:
    """Return a comment as a table cell: on one line, with Markdown's special characters escaped."""
    return re.sub(r"([|*<\[\]])", r"\\\1", " ".join(text.split())) + (" " if text.endswith(" ") else "")
