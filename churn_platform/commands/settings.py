"""`churn settings`: every setting with its value, and their reference for `docs/` and `.env.example`."""

import re
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import groupby
from typing import Annotated, Any, Final

import typer
from pydantic import SecretStr
from pydantic_core import to_jsonable_python
from rich.table import Table
from rich.text import Text

from churn_platform.commands.terminal import AsJson, ExitCode, emit, end, output, report_errors
from churn_platform.settings import Settings, descriptions, groups, load_settings

Plain = str | int | float | bool | None

MASK: Final = "***"
# Up to the last "@", so that a password that contains "@" is hidden completely.
LOGIN: Final = re.compile(r"://.*@")
# The parts of a connection string that are shown. Everything else may be secret.
HARMLESS: Final = ("host", "port", "dbname", "user")
DATABASES: Final = ("DATABASE_URL", "DATABASE_OWNER_URL", "DATABASE_READER_URL", "DATABASE_RETENTION_URL")
COMMENT_WIDTH: Final = 118
TEXT: Final = "text"

ORDER: Final = (
    "A value comes from the process environment, else from `.env` in the checkout's folder, else from `.local/env` "
    "(written by `churn up`), else from the default. An empty value counts as not set. A name that is probably "
    "a misspelled setting is an error. A secret may be in a file, which its name with `_FILE` at the end names, or in "
    "AWS Secrets Manager."
)


class Format(StrEnum):
    """What is printed: the current settings, or the reference."""

    TABLE = "table"
    MARKDOWN = "markdown"
    ENV = "env"


@dataclass(frozen=True)
class Setting:
    """One setting, as settings.py describes it. `allowed` is human-readable."""

    variable: str
    group: str
    allowed: str
    default: Plain
    description: str


def settings(
    form: Annotated[
        Format,
        typer.Option("--format", help="Current settings, or the reference as Markdown or as a .env file."),
    ] = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Show every setting with its current value, its default and its meaning. Passwords are never shown.

    With --format markdown or env, print docs/reference/settings.md or .env.example, whatever the current values are.

    Example: churn settings
    """
    if as_json and form is not Format.TABLE:
        end(ExitCode.USAGE, "--json cannot be combined with --format.")
    if form is Format.MARKDOWN:
        typer.echo(as_markdown(reference()), nl=False)
        return
    if form is Format.ENV:
        typer.echo(as_env_file(reference()), nl=False)
        return
    with report_errors():
        current = load_settings()
    values = {each.variable: _shown(each.variable, current.value_of(each)) for each in descriptions()}
    if as_json:
        emit([{**asdict(each), "value": values[each.variable]} for each in reference()])
    else:
        output.print(_table(reference(), values, current.variables_set))


def reference() -> list[Setting]:
    """Return every setting, in the order of settings.py."""
    titles = {name: field.title or "" for name, field in Settings.model_fields.items()}
    schemas = {name: group.model_json_schema(by_alias=False)["properties"] for name, group in groups().items()}
    return [
        Setting(
            variable=each.variable,
            group=titles[each.group],
            allowed=_allowed(schemas[each.group][each.name]),
            default=to_jsonable_python(each.field.default),
            description=each.field.description or "",
        )
        for each in descriptions()
    ]


def as_markdown(described: Sequence[Setting]) -> str:
    """Return the reference as a Markdown page."""
    lines = [
        "# Settings",
        "",
        "Each setting is an environment variable. " + ORDER,
        "",
        "`churn settings` shows the current values. This page is the output of `churn settings --format markdown`.",
    ]
    for group, members in groupby(described, key=lambda each: each.group):
        lines += ["", f"## {group}", "", "| Setting | Default | Values | Meaning |", "|---|---|---|---|"]
        for each in members:
            default = f"`{_text(each.default)}`" if _text(each.default) else ""
            cells = (f"`{each.variable}`", default, each.allowed, each.description)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def as_env_file(described: Sequence[Setting]) -> str:
    """Return the reference as a .env file, with every setting at its default and commented out."""
    opening = (
        "Copy this file to .env and remove the # before the settings that you change. This file is the output of "
        "'churn settings --format env'. " + ORDER.replace("`", "'")
    )
    lines = _comment(opening)
    for group, members in groupby(described, key=lambda each: each.group):
        lines += ["", "", f"# --- {group} ---"]
        for each in members:
            allowed = "" if each.allowed == TEXT else f" ({each.allowed})"
            default = shlex.quote(_text(each.default)) if each.default else _text(each.default)
            lines += ["", *_comment(each.description + allowed), f"#{each.variable}={default}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        width=COMMENT_WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _table(described: Sequence[Setting], values: dict[str, Plain], given: set[str]) -> Table:
    table = Table(
        "Setting", "Value", "Default", "Meaning", box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0)
    )
    for group, members in groupby(described, key=lambda each: each.group):
        table.add_row()
        table.add_row(Text(group, style="bold"))
        for each in members:
            table.add_row(
                Text(each.variable),
                Text(_text(values[each.variable]), style="green" if each.variable in given else ""),
                Text(_text(each.default), style="dim"),
                Text(each.description, style="dim"),
            )
    for column in table.columns:
        column.overflow = "fold"  # a truncated path is useless
    table.caption = "Green: set in the environment, in .env or in .local/env."
    table.caption_justify = "left"
    return table


def _shown(variable: str, value: object) -> Plain:
    """Return a value without passwords."""
    if isinstance(value, SecretStr):
        return _connection(value.get_secret_value()) if variable in DATABASES else MASK
    plain: Plain = to_jsonable_python(value)
    return LOGIN.sub(f"://{MASK}@", plain) if isinstance(plain, str) else plain


def _connection(secret: str) -> str:
    """Return the host, database and user of a connection string; a mask if the password cannot be told apart."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(secret)
    except ProgrammingError:
        return MASK
    harmless = {name: str(parts[name]) for name in HARMLESS if parts.get(name)}
    # If "@" or "/" in a password is not percent-encoded, libpq reads part of it as the host or the database.
    if not harmless or secret.count("@") > 1 or any("@" in part for part in harmless.values()):
        return MASK
    return " ".join([*(f"{name}={part}" for name, part in harmless.items()), f"password={MASK}"])


def _text(value: Plain) -> str:
    """Return a value as it is written in the environment."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _allowed(schema: dict[str, Any]) -> str:
    """Return the values that a JSON schema allows, human-readable."""
    schema = next((each for each in schema.get("anyOf", []) if each.get("type") != "null"), schema)
    if "enum" in schema:
        return ", ".join(schema["enum"])
    names = {"boolean": "true or false", "integer": "whole number", "number": "number"}
    formats = {"path": "path", "date-time": "date and time, ISO 8601"}
    words = names.get(schema["type"]) or formats.get(schema.get("format", ""), TEXT)
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    return ", ".join([words, *(f"{word} {schema[bound]:g}" for bound, word in bounds.items() if bound in schema)])
