"""`churn settings`: what can be set, what it is set to, and the reference that `docs/reference/settings.md` holds."""

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
from churn_platform.settings import Settings, load_settings

Plain = str | int | float | bool | None

MASK: Final = "***"
# Up to the last "@", so that a password which holds one itself is hidden whole.
LOGIN: Final = re.compile(r"://.*@")
# Of a connection string only these are ever shown: what is not known to be harmless stays hidden.
HARMLESS: Final = ("host", "port", "dbname", "user")
DATABASES: Final = ("database_url", "database_owner_url", "database_reader_url")
COMMENT_WIDTH: Final = 118
TEXT: Final = "text"

# The sections of settings.py, each by its first setting.
GROUPS: Final = {
    "churn_local": "Where things are",
    "aws_endpoint_url_s3": "S3",
    "database_url": "Your own servers",
    "kafka_security_protocol": "Kafka security",
    "events_topic": "Topics",
    "stream_group": "The stream",
    "metrics_seconds": "Metrics",
    "retention_days": "Growth",
    "data_preparation_cron": "Schedules",
    "monitoring_seconds": "Monitoring",
    "call_cost": "The model",
    "preview_rows": "What the Dagster UI shows",
    "mlflow_experiment": "MLflow names",
}
ORDER: Final = (
    "A value comes from the process environment, else from `.env` in the checkout's folder, else from `.local/env` "
    "(written by `churn up`), else it is the default. An empty value counts as none."
)


class Format(StrEnum):
    """What is printed: the settings in force, or the reference."""

    TABLE = "table"
    MARKDOWN = "markdown"
    ENV = "env"


@dataclass(frozen=True)
class Setting:
    """One setting, as settings.py describes it. `allowed` says in words what it may be."""

    variable: str
    group: str
    allowed: str
    default: Plain
    description: str


def settings(
    form: Annotated[
        Format, typer.Option("--format", help="The settings in force, or the reference as Markdown or as a .env file.")
    ] = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Show every setting: its value now, its default and what it means. Passwords are never shown.

    With --format markdown or env it prints docs/reference/settings.md or .env.example, whatever is set.

    Example: churn settings
    """
    if as_json and form is not Format.TABLE:
        end(ExitCode.USAGE, "Choose one of --json and --format.")
    if form is Format.MARKDOWN:
        typer.echo(as_markdown(reference()), nl=False)
        return
    if form is Format.ENV:
        typer.echo(as_env_file(reference()), nl=False)
        return
    with report_errors():
        current = load_settings()
    values = {name.upper(): _shown(name, value) for name, value in current}
    if as_json:
        emit([{**asdict(each), "value": values[each.variable]} for each in reference()])
    else:
        given = {name.upper() for name in current.model_fields_set}
        output.print(_table(reference(), values, given))


def reference() -> list[Setting]:
    """Every setting, in the order of settings.py."""
    properties = Settings.model_json_schema()["properties"]
    found, group = [], ""
    for name, field in Settings.model_fields.items():
        group = GROUPS.get(name, group)
        default: Plain = to_jsonable_python(field.default)
        found.append(Setting(name.upper(), group, _allowed(properties[name]), default, field.description or ""))
    return found


def as_markdown(described: Sequence[Setting]) -> str:
    """The reference as a Markdown page."""
    lines = [
        "# Settings",
        "",
        "Each setting is an environment variable. " + ORDER,
        "",
        "`churn settings` shows the values in force. This page is what `churn settings --format markdown` prints.",
    ]
    for group, members in groupby(described, key=lambda each: each.group):
        lines += ["", f"## {group}", "", "| Setting | Default | Values | Meaning |", "|---|---|---|---|"]
        for each in members:
            default = f"`{_text(each.default)}`" if _text(each.default) else ""
            cells = (f"`{each.variable}`", default, each.allowed, each.description)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def as_env_file(described: Sequence[Setting]) -> str:
    """The reference as a .env file in which every setting is commented out, at its default."""
    opening = (
        "Copy this file to .env and remove the # before what you set. This is what 'churn settings --format env' "
        "prints. " + ORDER.replace("`", "'")
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
        column.overflow = "fold"  # a path cut short is of no use
    table.caption = "Green: set in the environment, in .env or in .local/env."
    table.caption_justify = "left"
    return table


def _shown(name: str, value: object) -> Plain:
    """A value as it may be shown to anybody."""
    if isinstance(value, SecretStr):
        return _connection(value.get_secret_value()) if name in DATABASES else MASK
    plain: Plain = to_jsonable_python(value)
    return LOGIN.sub(f"://{MASK}@", plain) if isinstance(plain, str) else plain


def _connection(secret: str) -> str:
    """Where a connection string leads, without what opens it; hidden whole where the two cannot be told apart."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(secret)
    except ProgrammingError:
        return MASK
    harmless = {name: str(parts[name]) for name in HARMLESS if parts.get(name)}
    # A password whose "@" or "/" is not percent-encoded is taken for part of the host or the database.
    if not harmless or secret.count("@") > 1 or any("@" in part for part in harmless.values()):
        return MASK
    return " ".join([*(f"{name}={part}" for name, part in harmless.items()), f"password={MASK}"])


def _text(value: Plain) -> str:
    """A value as it would stand in the environment."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _allowed(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    schema = next((each for each in schema.get("anyOf", []) if each.get("type") != "null"), schema)
    if "enum" in schema:
        return ", ".join(schema["enum"])
    names = {"boolean": "true or false", "integer": "whole number", "number": "number"}
    formats = {"path": "path", "date-time": "date and time, ISO 8601"}
    words = names.get(schema["type"]) or formats.get(schema.get("format", ""), TEXT)
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return " ".join([words, *(f"{word} {schema[bound]:g}" for bound, word in bounds.items() if bound in schema)])
