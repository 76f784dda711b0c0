"""Customer schemas as TOML files: reading and validating them.

The keys are in `toml_keys.py`, and what must hold between them in `rules.py`. What a valid schema means is in
`columns.py` and `customer_schema.py`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError

from churn_platform.schema.columns import Band, Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import SchemaError
from churn_platform.schema.rules import Problem, key_of, nearest, problems, shown
from churn_platform.schema.toml_keys import BandsTable, ColumnTable, DataSetTable, SchemaTable

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EXPECTED: Final = {
    "string_type": "Expected a text in quotes.",
    "bool_type": "Expected true or false, without quotes.",
    "int_type": "Expected a whole number, without quotes.",
    "float_type": "Expected a number, without quotes.",
    "list_type": "Expected a list, such as [...].",
    "dict_type": "Expected a table, such as {{ ... }}.",
    "model_type": "Expected a table, such as {{ ... }}.",
    "finite_number": "Expected a finite number.",
    "greater_than_equal": "Expected a number from {ge}.",
    "less_than_equal": "Expected a number up to {le}.",
    "less_than": "Expected a number below {lt}.",
    "string_too_short": "Expected a text that is not empty.",
    "string_too_long": "Expected at most {max_length} characters.",
    "too_short": "Expected at least {min_length}, not {actual_length}.",
    "too_long": "Expected at most {max_length}, not {actual_length}.",
}
"""pydantic's type of an error -> what was expected."""
_PATTERNS: Final = {
    "name": "Expected lower case letters, digits and underscores, a letter first, at most 63 characters.",
    "currency": "Expected three capital letters, such as EUR.",
}
"""Key -> the texts that its pattern allows."""
_OF_KEYS: Final = ("string_too_short", "string_too_long", "printable")
"""Errors of a name of a column, which pydantic locates at `[key]` below it."""


@cache
def load_schema(path: Path) -> CustomerSchema:
    """Return the schema in a TOML file. A file is read once.

    Raises:
        SchemaError: the file is missing, is not TOML, or states no valid schema. The message names every wrong key.
    """
    return parse_schema(_read(path), origin=str(path))


def customers_file(path: Path) -> str:
    """Return the customers file that a schema file names, absolute if it is local; empty if it names none.

    Raises:
        SchemaError: as `load_schema`.
    """
    given = _tables(_read(path), origin=str(path)).data_set.customers_file
    return given if not given or "://" in given else str((path.parent / given).resolve())


def parse_schema(text: str, *, origin: str) -> CustomerSchema:
    """Return the schema that a TOML text states.

    Args:
        text: the TOML.
        origin: where it comes from, for error messages.

    Raises:
        SchemaError: the text is not TOML, or states no valid schema. The message names every wrong key.
    """
    tables = _tables(text, origin=origin)
    schema = _schema(tables)
    if found := problems(schema, tables):
        raise _invalid(origin, found)
    return schema


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
    except FileNotFoundError:
        raise SchemaError(
            f"There is no customer schema at {path}.",
            remedy="Set CHURN_SCHEMA to the path of yours, or draft one with 'churn schema infer FILE'.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(
            f"The customer schema {path} cannot be read: {error}. Expected a readable TOML file in UTF-8.",
            remedy="Correct the file, or set CHURN_SCHEMA to another one.",
        ) from error


def _tables(text: str, *, origin: str) -> SchemaTable:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib raises these, too, for endless digits and deep nesting
        raise SchemaError(
            f"The customer schema {origin} is not TOML: {error}.", remedy="Correct that place of the file."
        ) from None
    try:
        return SchemaTable.model_validate(document)
    except ValidationError as error:
        raise _invalid(origin, [_problem(each, document) for each in error.errors()]) from None


def _schema(tables: SchemaTable) -> CustomerSchema:
    given = tables.data_set
    return CustomerSchema(
        name=given.name,
        description=given.description,
        id=given.id,
        target=given.target,
        left=given.left,
        currency=given.currency,
        delimiter=given.delimiter,
        decimal=given.decimal,
        encoding=given.encoding,
        columns=tuple(_column(name, table, unique=name == given.id) for name, table in tables.columns.items()),
        largest_quarantined_share=given.largest_quarantined_share,
        least_roc_auc=given.least_roc_auc,
    )


def _column(name: str, table: ColumnTable, *, unique: bool) -> Column:
    flag = table.kind == "flag"
    return Column(
        name=name,
        kind=table.kind,
        label=table.label,
        description=table.description,
        unit=table.unit,
        minimum=0 if flag and table.minimum is None else table.minimum,
        maximum=1 if flag and table.maximum is None else table.maximum,
        categories=tuple(table.categories),
        max_length=table.max_length,
        headers=tuple(table.headers),
        spellings=tuple((text, str(value)) for text, value in table.spellings.items()),
        optional=table.optional,
        missing=table.missing,
        constant=table.constant,
        unknown=table.unknown,
        transforms=tuple(table.features),
        bands=_bands(table.bands),
        bands_feature="" if table.bands is None else table.bands.feature,
        since=table.days_since,
        risk=table.risk,
        segment=table.segment,
        segment_bounds=tuple(table.segment_bounds),
        averaged=table.averaged,
        money_at_risk=table.money_at_risk,
        summary=table.summary,
        sql_name=table.sql_name,
        single_precision=table.single_precision,
        unique=unique,
        counted=table.counted,
    )


def _bands(bands: BandsTable | None) -> tuple[Band, ...]:
    if bands is None:
        return ()
    # A wrong number of names is reported by the rules, which need a schema.
    return tuple(Band(name, bound) for name, bound in zip(bands.names, [*bands.upper_bounds, None], strict=False))


def _invalid(origin: str, found: Sequence[Problem]) -> SchemaError:
    lines = [f"{each.key}: {each.problem} {each.remedy}" for each in found]
    count = "a problem" if len(lines) == 1 else f"{len(lines)} problems"
    return SchemaError(
        f"The customer schema {origin} has {count}:\n- " + "\n- ".join(lines),
        details="docs/reference/customer-schema.md explains every key. 'churn schema check' checks a file.",
    )


def _problem(error: ErrorDetails, document: Mapping[str, Any]) -> Problem:
    """Return what pydantic found, by the key as it is written in TOML."""
    steps = list(error["loc"])
    if steps[-1] == "[key]" and error["type"] in _OF_KEYS:
        steps.pop()
        return Problem(
            key_of(*map(str, steps)), f"is a name of {len(str(steps[-1]))} characters.", _expected(error, steps)
        )
    item = isinstance(steps[-1], int)  # of a list
    key = key_of(*(step for step in steps if isinstance(step, str)))
    if error["type"] == "extra_forbidden":
        known = _table_at(steps).model_fields
        return Problem(key, "is not a key of a schema.", nearest(str(steps[-1]), known))
    if error["type"] == "missing":
        return Problem(key, "is missing.", f"Add it. {_table_at(steps).model_fields[str(steps[-1])].description}")
    value = shown(_value_at(document, steps))
    return Problem(key, f"lists {value}." if item else f"is {value}.", _expected(error, steps))


def _expected(error: ErrorDetails, steps: Sequence[str | int]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return f"Expected {context['expected']}."
    if kind == "string_pattern_mismatch":
        return _PATTERNS[str(steps[-1])]
    if kind in ("too_short", "too_long") and steps == ["columns"]:
        return _EXPECTED[kind].format(**context).replace(", not", " columns, not")
    return _EXPECTED[kind].format(**context) if kind in _EXPECTED else error["msg"]


def _table_at(steps: Sequence[str | int]) -> type[BaseModel]:
    """Return the table that a key, the last of the steps, is in."""
    if len(steps) == 1:
        return SchemaTable
    if steps[0] == "data_set":
        return DataSetTable
    return BandsTable if len(steps) > 3 else ColumnTable


def _value_at(document: Any, steps: Sequence[str | int]) -> object:
    """Return the value of a key. pydantic reports only keys and items that are there."""
    for step in steps:
        document = document[step]
    found: object = document
    return str(found) if isinstance(found, date) else found
