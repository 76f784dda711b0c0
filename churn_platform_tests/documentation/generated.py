"""Generated pages and tables: commands, tables of a database, keys of a customer schema, operator conditions."""

import html
import json
import re
from collections.abc import Iterator
from datetime import date
from types import UnionType
from typing import Annotated, Any, Literal, LiteralString, Union, get_args, get_origin

import psycopg
import yaml
from pydantic import BaseModel
from typer import Context
from typer.cli import get_docs_for_click

from churn_platform.alerts.conditions import CONDITIONS
from churn_platform.observability.grafana import Dashboard
from churn_platform.observability.metrics import API_METRICS, METRICS, Source
from churn_platform.observability.rules import ALERTS, rules_file
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
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


def key_table(model: type[BaseModel]) -> str:
    """The keys of a table of a schema file, with what they may hold, their defaults and meanings."""
    rows = ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _default(field.default)
        rows.append(f"| `{name}` | {_values(field.annotation)} | {default} | {_cell(field.description or '')} |")
    return "\n".join(rows)


def condition_table() -> str:
    """The conditions that operators are told about, with their meanings, bounds and remedies."""
    rows = ["| Condition | Meaning | Bound | What to do |", "|---|---|---|---|"]
    for each in CONDITIONS:
        bound = f"`{each.setting}`" if each.setting else ""
        rows.append(f"| `{each.name}` | {_cell(each.meaning)} | {bound} | {_cell(each.remedy)} |")
    return "\n".join(rows)


def rules_page() -> str:
    """Return the rules of Prometheus."""
    rules = yaml.safe_dump(rules_file(), sort_keys=False, width=1_000, allow_unicode=True)
    return (
        "# Generated from churn_platform/observability/rules.py and churn_platform/alerts/conditions.py: do not edit.\n"
        f"# 'make docs-examples' writes it again.\n{rules}"
    )


def metric_table(source: Source) -> str:
    """The metrics of the worker, its own state or what it reads from the database, or those of the API."""
    rows = ["| Metric | Kind | Labels | Meaning |", "|---|---|---|---|"]
    for each in (*METRICS, *API_METRICS):
        if each.source == source:
            labels = ", ".join(f"`{label}`" for label in each.labels)
            rows.append(f"| `{each.name}` | {each.kind} | {labels} | {_cell(each.meaning)} |")
    return "\n".join(rows)


def alert_table() -> str:
    """The alerts, with their severities."""
    rows = (
        f"| `{each.name}` | {each.severity} | {_cell(each.summary)} | {_cell(each.description)} |" for each in ALERTS
    )
    return "\n".join(["| Alert | Severity | Meaning | What to do |", "|---|---|---|---|", *rows])


def dashboard_page(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana reads it."""
    return json.dumps(dashboard.as_json(), indent=2) + "\n"


def dictionary(schema: CustomerSchema) -> str:
    """The columns of a data set, with their kinds, units, allowed values and meanings."""
    rows = ["| Column | Kind | Unit | Allowed | Meaning |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *(_dictionary_row(column) for column in schema.columns)])


def _dictionary_row(column: Column) -> str:
    kind = "whole number" if column.kind == "whole" else column.kind
    allowed = column.allowed.removeprefix("a whole number ").removeprefix("a number ")
    notes = (("Unique.", column.unique), ("May be absent.", column.optional))
    meaning = " ".join([column.description, *(note for note, holds in notes if holds)])
    return f"| {column.name} | {kind} | {column.unit or ''} | {_cell(allowed)} | {_cell(meaning)} |"


def _default(value: object) -> str:
    if value in (None, "", [], {}):
        return "none"
    return str(value).lower() if isinstance(value, bool) else f"`{json.dumps(value)}`"


_KINDS = {bool: "true or false", str: "text", float: "number", int: "whole number", date: "date"}


def _values(kind: Any) -> str:  # annotations have no common type
    """Return what a key may hold, from the type of its field."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _values(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (UnionType, Union):
        return " or ".join(_values(each) for each in arguments if each is not type(None))
    if origin is list:
        return f"list: {_values(arguments[0])}"
    if origin is dict:
        return f"table: {_values(arguments[0])} = {_values(arguments[1])}"
    return _KINDS.get(kind, "table")


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
