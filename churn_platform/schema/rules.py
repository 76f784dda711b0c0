"""What must hold between the keys of a customer schema. Pure; no I/O.

pydantic has checked every value by itself: see `toml_keys.py`. Each rule yields the key, what is wrong and what to do.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from churn_platform.schema.columns import MAX_SQL_NAME_BYTES, MAX_WHOLE, REPLACED, Column, Kind, Transform
from churn_platform.schema.customer_schema import CustomerSchema

if TYPE_CHECKING:
    from churn_platform.schema.toml_keys import BandsTable, ColumnTable, SchemaTable

MAX_FEATURES: Final = 1_000
MAX_EXACT: Final = 2**53
"""Beyond it, a float64 cannot represent every whole number."""
MAX_ID_LENGTH: Final = 200
MAX_SEGMENT_VALUES: Final = 100
"""Most values of a whole number that are segments by themselves."""
MAX_SHOWN: Final = 60
IN_XGBOOST_NAMES: Final = re.compile(r"[\[\]<]")
"""Characters that XGBoost does not allow in the name of a feature."""
IN_FIELD_NAMES: Final = re.compile(r'["\\]')
"""Characters that msgspec does not allow in the name of a field."""
TABLE_NAME: Final = re.compile(r"[^\W\d]\w*")

_PREDICTIONS: Final = (
    "event_id event_ref customer_id prediction probability risk_score predicted_at event_timestamp model_version "
    "true_churn_label batch kafka_partition kafka_offset timestamp_given"
)
_HIGH_RISK: Final = "detected_at alert_sent alert_sent_at reasons"
_METRICS: Final = (
    "hour_timestamp date total_predictions churn_count churn_rate avg_risk_score high_risk_count risk risk_sum "
    "risk_count version updated_at"
)
_SUMMARIES: Final = (
    "replay segments confidence high_confidence low_confidence labelled labelled_churn correct left left_churn"
)
_POSTGRES: Final = "tableoid xmin cmin xmax cmax ctid"
PLATFORM_COLUMNS: Final = frozenset(f"{_PREDICTIONS} {_HIGH_RISK} {_METRICS} {_SUMMARIES} {_POSTGRES}".split())
"""Names in the tables and messages that also hold customers' columns, and PostgreSQL's own."""
PLATFORM_FIELDS: Final = frozenset(
    {"event_id", "event_timestamp", "true_churn_label", "data", "timestamp", "split", "risk_score"}
)
"""Fields of an event, and columns of frames of customers, that are not the customer's."""

TRANSFORMS: Final[dict[Kind, tuple[Transform, ...]]] = {
    "whole": ("value", "min_max", "bands"),
    "number": ("value", "min_max", "bands"),
    "flag": ("value",),
    "category": ("one_hot",),
    "date": ("days_since",),
    "text": (),
}
"""Kind -> the features that a column of it may have."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a schema: the key, what is wrong, and what to do."""

    key: str
    problem: str
    remedy: str


_Found = Iterator[tuple[str, str, str]]
"""Key below the column, what is wrong, what to do."""


def problems(schema: CustomerSchema, tables: SchemaTable) -> list[Problem]:
    """Return everything that is wrong with a schema whose single values are right.

    Args:
        schema: made of the tables.
        tables: the schema file.
    """
    return list(_problems(schema, tables))


def key_of(*steps: str) -> str:
    """Return a key as it is written in TOML: in quotes where they are needed."""
    return ".".join(step if re.fullmatch(r"[A-Za-z0-9_-]+", step) else f'"{step}"' for step in steps)


def nearest(given: str, known: Iterable[str]) -> str:
    """Return a remedy that names the known name nearest to the given one, or all of them if none is near."""
    names = list(known)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Expected one of {', '.join(names)}."


def shown(value: object) -> str:
    """Return a value for a message, cut to MAX_SHOWN characters."""
    text = str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _problems(schema: CustomerSchema, tables: SchemaTable) -> Iterator[Problem]:
    yield from _data_set_problems(schema)
    for column in schema.columns:
        table = tables.columns[column.name]
        for name, problem, remedy in (
            *_range_problems(column, table),
            *_category_problems(column),
            *_spelling_problems(column),
            *_missing_problems(column),
            *_feature_problems(column, table),
            *_segment_problems(column),
            *_use_problems(column, schema),
        ):
            yield Problem(f"{key_of('columns', column.name)}.{name}", problem, remedy)
    yield from _name_problems(schema)
    yield from _table_name_problems(schema)
    yield from _feature_name_problems(schema)
    money = [column.name for column in schema.columns if column.money_at_risk]
    if len(money) > 1:
        key = key_of("columns", money[1], "money_at_risk")
        yield Problem(key, f"is true, and {money[0]!r} has it, too.", "Keep it for one column.")


def _data_set_problems(schema: CustomerSchema) -> Iterator[Problem]:
    for key, name in (("id", schema.id), ("target", schema.target)):
        if name not in schema.by_name:
            yield Problem(f"data_set.{key}", f"is {name!r}, which is not a column.", nearest(name, schema.names))
    if schema.id == schema.target:
        yield Problem("data_set.target", f"is {schema.target!r}, as the id is.", "Name the column to predict.")
    if schema.encoding and not _is_encoding(schema.encoding):
        remedy = "Expected an encoding, such as utf-8 or cp1252."
        yield Problem("data_set.encoding", f"is {schema.encoding!r}.", remedy)
    if schema.delimiter in ('"', "\n", "\r", " ") or schema.delimiter.isalnum():
        yield Problem("data_set.delimiter", f"is {schema.delimiter!r}.", 'Expected another character, such as ";".')
    if schema.delimiter and schema.delimiter == schema.decimal:
        yield Problem("data_set.decimal", f"is {schema.decimal!r}, as the delimiter is.", "Change one of them.")
    if schema.id in schema.by_name:
        yield from _id_problems(schema.id_column)
    if schema.target in schema.by_name:
        yield from _target_problems(schema, schema.target_column)


def _is_encoding(name: str) -> bool:
    try:
        return isinstance("".encode(name), bytes) and isinstance(codecs.decode(b"", name), str)
    except (LookupError, UnicodeError, ValueError):  # ValueError: the name has a null character
        return False


def _id_problems(column: Column) -> Iterator[Problem]:
    key = key_of("columns", column.name)
    if column.kind not in ("whole", "text"):
        yield Problem(f"{key}.kind", f"is {column.kind!r}.", "Expected 'whole' or 'text' for the id.")
    if column.missing != "refuse":
        yield Problem(f"{key}.missing", f"is {column.missing!r}.", "Expected 'refuse': every customer needs an id.")
    if column.optional:
        yield Problem(f"{key}.optional", "is true.", "Remove it: every customer needs an id.")
    if column.kind == "text" and (column.max_length is None or column.max_length > MAX_ID_LENGTH):
        given = "is missing." if column.max_length is None else f"is {column.max_length}."
        yield Problem(f"{key}.max_length", given, f"Expected at most {MAX_ID_LENGTH} characters for the id.")


def _target_problems(schema: CustomerSchema, target: Column) -> Iterator[Problem]:
    key = key_of("columns", target.name)
    left, value = schema.left, f"is {shown(schema.left)}."
    if target.kind == "category":
        if left not in target.categories:
            yield Problem("data_set.left", value, nearest(str(left), target.categories))
        if len(target.categories) < 2 and target.unknown == "refuse":
            remedy = "List at least two: one that means left, and one that means stayed."
            yield Problem(f"{key}.categories", f"is {shown(list(target.categories))}.", remedy)
    elif target.kind not in ("flag", "whole"):
        remedy = "Expected 'flag', 'whole' or 'category' for the target."
        yield Problem(f"{key}.kind", f"is {target.kind!r}.", remedy)
    elif not _fits(target, left):
        yield Problem("data_set.left", value, f"Expected {target.allowed_when_scored}, without quotes.")
    if target.missing not in ("refuse", "drop"):
        remedy = "Expected 'refuse' or 'drop': the target is never replaced."
        yield Problem(f"{key}.missing", f"is {target.missing!r}.", remedy)
    if target.optional:
        yield Problem(
            f"{key}.optional", "is true.", "Remove it: a file without the target cannot be used for training."
        )


def _range_problems(column: Column, table: ColumnTable) -> _Found:
    for name, bound in (("minimum", table.minimum), ("maximum", table.maximum)):
        if bound is None:
            continue
        value = f"is {shown(bound)}."
        if column.kind not in ("whole", "number", "date"):
            yield name, value, f"Remove it: the values of a {column.kind} have no range."
        elif (column.kind == "date") != isinstance(bound, date):
            yield name, value, "Expected a date." if column.kind == "date" else "Expected a number."
        elif column.kind == "whole" and (not isinstance(bound, int) or abs(bound) > MAX_WHOLE):
            yield name, value, f"Expected a whole number from -{MAX_WHOLE:,} to {MAX_WHOLE:,}."
        elif column.kind == "whole" and column.transforms and isinstance(bound, int) and abs(bound) > MAX_EXACT:
            yield name, value, f"Expected at most {MAX_EXACT:,}: features are exact up to there."
    if not _ascending((table.minimum, table.maximum)):
        remedy = "Expected a larger value, or another minimum."
        yield "maximum", f"is {shown(table.maximum)}, but the minimum is {shown(table.minimum)}.", remedy
    if column.max_length is not None and column.kind != "text":
        yield "max_length", f"is {column.max_length}.", f"Remove it: a {column.kind} has no length."
    if column.unit is not None and column.kind not in ("whole", "number"):
        yield "unit", f"is {column.unit!r}.", f"Remove it: a {column.kind} has no unit."
    if column.single_precision and column.kind != "number":
        yield "single_precision", "is true.", f"Remove it: it is for the kind 'number', not {column.kind!r}."


def _ascending(values: tuple[float | date | None, float | date | None]) -> bool:
    """Return whether the second bound is above the first, where both are given and of one type."""
    low, high = values
    if isinstance(low, date) and isinstance(high, date):
        return low < high
    if isinstance(low, int | float) and isinstance(high, int | float):
        return low < high
    return True


def _category_problems(column: Column) -> _Found:
    if column.kind == "category" and not column.categories:
        yield "categories", "is empty.", "List the texts that the column may have."
    if column.kind != "category" and column.categories:
        yield "categories", f"is {shown(list(column.categories))}.", f"Remove it: a {column.kind} has no categories."
    for category in _repeated(column.categories):
        yield "categories", f"lists {category!r} twice.", "Remove one."
    for category in column.categories:
        if category != category.strip():
            yield "categories", f"lists {category!r}.", "Remove the spaces around it: values are read without them."
    if column.unknown == "other" and column.kind != "category":
        yield "unknown", "is 'other'.", f"Remove it: a {column.kind} has no categories."


def _spelling_problems(column: Column) -> _Found:
    if column.spellings and column.kind not in ("category", "flag"):
        yield "spellings", f"has {column.spellings[0][0]!r}.", f"Remove it: a {column.kind} has no spellings."
        return
    allowed = column.categories if column.kind == "category" else ("0", "1")
    for text, value in column.spellings:
        if value not in allowed:
            yield "spellings", f"gives {text!r} the value {value!r}.", nearest(value, allowed)
        if text != text.strip():
            yield "spellings", f"has {text!r}.", "Remove the spaces around it: values are read without them."
        elif not text:
            yield (
                "spellings",
                "has an empty text.",
                "Remove it, and say with the key missing what an empty value means.",
            )
        elif text in allowed and value in allowed and text != value:
            yield "spellings", f"gives {text!r}, a value itself, the value {value!r}.", "Remove it."


def _missing_problems(column: Column) -> _Found:
    value = f"is {column.missing!r}."
    if column.missing == "median" and not (column.is_number or column.kind == "date"):
        yield "missing", value, f"Choose another: a {column.kind} has no median."
    if column.missing in ("mode", "category") and column.kind != "category":
        yield "missing", value, f"Choose another: a {column.kind} has no categories."
    if column.missing == "constant" and column.kind in ("date", "text"):
        yield "missing", value, f"Choose another: a {column.kind} is not replaced by a constant."
    elif column.missing == "constant" and column.constant is None:
        yield "constant", "is missing.", 'Add the value that replaces a missing one, or remove missing = "constant".'
    elif column.missing == "constant" and not _fits(column, column.constant):
        yield "constant", f"is {shown(column.constant)}.", f"Expected {column.allowed_when_scored}."
    if column.missing != "constant" and column.constant is not None:
        yield "constant", f"is {shown(column.constant)}.", 'Remove it, or set missing = "constant".'
    if column.counted and (column.kind != "whole" or not column.optional):
        yield "counted", "is true.", "Expected kind = 'whole' and optional = true: events do not have the column."
    elif column.optional and column.missing == "refuse" and not column.counted:
        yield "optional", "is true, but a missing value is refused.", "Set missing, or remove optional."


def _fits(column: Column, value: str | float | None) -> bool:
    """Return whether a number or a text is one of the column's values."""
    if column.kind == "category":
        return value in column.categories
    if not column.is_number or value is None or isinstance(value, str):
        return False
    low = column.minimum if isinstance(column.minimum, int | float) else float("-inf")
    high = column.maximum if isinstance(column.maximum, int | float) else float("inf")
    return low <= value <= high and (column.kind == "number" or float(value).is_integer())


def _feature_problems(column: Column, table: ColumnTable) -> _Found:
    suitable = TRANSFORMS[column.kind]
    value = f"is {shown(list(column.transforms))}."
    for transform in column.transforms:
        if transform not in suitable:
            expected = f"Expected {' or '.join(map(repr, suitable))}." if suitable else "Remove it."
            yield "features", f"lists {transform!r}, which a {column.kind} cannot have.", expected
    if _repeated(column.transforms):
        yield "features", value, "List each once."
    if {"value", "min_max"} <= set(column.transforms):
        yield "features", value, "List either 'value' or 'min_max': both are the same to the model."
    for name, given in (("bands", table.bands), ("days_since", table.days_since)):
        if name in column.transforms and given is None:
            yield name, "is missing.", f"Add it, or remove {name!r} from features."
        elif name not in column.transforms and given is not None:
            yield name, "has no effect.", f"Add {name!r} to features, or remove it."
    if table.bands is not None:
        yield from _band_problems(column, table.bands)
    if column.risk is not None and set(column.transforms) <= {"one_hot"}:
        remedy = "Remove it: only a feature of a number, a flag or a date can raise or lower the risk steadily."
        yield "risk", f"is {column.risk!r}.", remedy


def _band_problems(column: Column, bands: BandsTable) -> _Found:
    count, expected = len(bands.names), len(bands.upper_bounds) + 1
    if count != expected:
        yield "bands.names", f"has {count} for {expected - 1} upper bounds.", f"Expected {expected}, one more."
    for name in _repeated(bands.names):
        yield "bands.names", f"lists {name!r} twice.", "Rename one."
    yield from _bound_problems("bands.upper_bounds", column, tuple(bands.upper_bounds))


def _segment_problems(column: Column) -> _Found:
    bounds = column.segment_bounds
    if column.segment and column.kind in ("text", "date"):
        yield "segment", "is true.", f"Remove it: a {column.kind} does not divide customers into groups."
    elif column.segment and column.kind == "number" and not bounds:
        yield "segment_bounds", "is missing.", "Add the lower bounds of the segments."
    elif column.segment and column.kind == "whole" and not bounds and _values(column) > MAX_SEGMENT_VALUES:
        remedy = f"Add the lower bounds of the segments, or a range of at most {MAX_SEGMENT_VALUES} values."
        yield "segment_bounds", "is missing.", remedy
    if bounds and (not column.segment or column.kind not in ("whole", "number")):
        yield "segment_bounds", f"is {shown(list(bounds))}.", "Remove it, or set segment = true of a number."
    yield from _bound_problems("segment_bounds", column, bounds)


def _bound_problems(key: str, column: Column, bounds: tuple[float, ...]) -> _Found:
    if any(low >= high for low, high in pairwise(bounds)):
        yield key, f"is {shown(list(bounds))}.", "Expected ascending numbers, each once."
    for bound in bounds:
        low, high = column.minimum, column.maximum
        below = isinstance(low, int | float) and bound < low
        above = isinstance(high, int | float) and bound > high
        if below or above:
            yield key, f"lists {shown(bound)}.", f"Expected {column.allowed_when_scored}."


def _values(column: Column) -> float:
    """Return how many values a column of whole numbers may have."""
    if isinstance(column.minimum, int) and isinstance(column.maximum, int):
        return column.maximum - column.minimum + 1
    return float("inf")


def _use_problems(column: Column, schema: CustomerSchema) -> _Found:
    uses = {
        "features": f"is {shown(list(column.transforms))}." if column.transforms else "",
        **{name: "is true." for name in ("segment", "averaged", "money_at_risk", "summary") if getattr(column, name)},
    }
    uses = {name: value for name, value in uses.items() if value}
    if column.name in (schema.id, schema.target):
        role = "id" if column.name == schema.id else "target"
        for name, value in uses.items():
            yield name, value, f"Remove it: the {role} is neither a feature nor in reports."
        return
    if column.kind == "text" and column.missing != "ignore":
        yield "missing", f"is {column.missing!r}.", 'Set missing = "ignore": nothing reads a text but the id.'
    if column.kind == "text" and column.summary:
        yield "summary", "is true.", 'Remove it: texts are not stored. A category with unknown = "other" is.'
    for name in ("averaged", "money_at_risk"):
        if name in uses and not column.is_number:
            yield name, "is true.", f"Remove it: a {column.kind} is not a number."
    if uses and column.counted:
        yield "counted", "is true, but the column is used.", f"Remove it, or {', '.join(uses)}."
    if uses and column.kind != "text" and column.missing == "ignore":
        yield (
            "missing",
            "is 'ignore', but the column is used.",
            f"Expected one of {', '.join(('refuse', 'drop', *REPLACED))}.",
        )


def _name_problems(schema: CustomerSchema) -> Iterator[Problem]:
    headers: dict[str, str] = {}
    for column in schema.columns:
        key = key_of("columns", column.name)
        if column.name != column.name.strip():
            yield Problem(key, "has spaces around it.", "Remove them: headers are read without them.")
        if found := IN_FIELD_NAMES.search(column.name):
            remedy = "Rename the column, with headers for its old name."
            yield Problem(key, f"contains {found[0]}, which no field of an event may contain.", remedy)
        if column.name in PLATFORM_FIELDS:
            remedy = "Rename the column, with headers for its old name."
            yield Problem(key, "is a name of the platform's own.", remedy)
        for name in (column.name, *column.headers):
            if name in headers:
                yield Problem(f"{key}.headers", f"has {name!r}, as {headers[name]!r} does.", "Remove or rename one.")
            headers[name] = column.name


def _table_name_problems(schema: CustomerSchema) -> Iterator[Problem]:
    """Yield names in tables that are not valid, or that two columns would have."""
    seen: dict[str, str] = {}
    for column in schema.stored:
        name = column.column
        key, value = key_of("columns", column.name, "sql_name"), f"is {name!r}"
        if len(name.encode()) > MAX_SQL_NAME_BYTES:
            remedy = f"Expected at most {MAX_SQL_NAME_BYTES}: set another sql_name."
            yield Problem(key, f"{value}, which has {len(name.encode())} bytes.", remedy)
        if not TABLE_NAME.fullmatch(name) or name != name.lower():
            remedy = "Set it to lower case letters, digits and underscores, a letter or underscore first."
            yield Problem(key, f"{value}.", remedy)
        if name in PLATFORM_COLUMNS:
            yield Problem(key, f"{value}, a name of the platform's own or of PostgreSQL's.", "Set another sql_name.")
        if name in seen:
            yield Problem(key, f"{value}, as that of {seen[name]!r} is.", "Set another sql_name.")
        seen.setdefault(name, column.name)
    metrics = dict.fromkeys(PLATFORM_COLUMNS, "the platform")
    for column in schema.averaged:
        for name in (f"avg_{column.column}", f"{column.column}_sum", f"{column.column}_count"):
            if name in metrics:
                key = key_of("columns", column.name, "sql_name")
                problem = (
                    f"is {column.column!r}, so the metrics would have {name!r} twice, here and of {metrics[name]}."
                )
                yield Problem(key, problem, "Set another sql_name.")
            metrics.setdefault(name, repr(column.name))


def _feature_name_problems(schema: CustomerSchema) -> Iterator[Problem]:
    features = schema.features
    if not features:
        yield Problem("columns", "has no column with features.", 'Add features = ["value"] or ["one_hot"] to some.')
    if len(features) > MAX_FEATURES:
        yield Problem("columns", f"makes {len(features):,} features.", f"Expected at most {MAX_FEATURES:,}.")
    seen: dict[str, str] = {}
    for feature in features:
        key, value = key_of("columns", feature.column), f"makes the feature {feature.name!r}"
        if IN_XGBOOST_NAMES.search(feature.name):
            yield Problem(key, f"{value}.", "Rename the column or the category without [, ] and <.")
        if feature.name in seen:
            yield Problem(key, f"{value}, as {seen[feature.name]!r} does.", "Rename a column, a category or a band.")
        elif feature.name in schema.by_name and feature.name != feature.column:
            yield Problem(key, f"{value}, which is the name of a column.", "Rename a column, a category or a band.")
        seen.setdefault(feature.name, feature.column)


def _repeated(values: Iterable[str]) -> list[str]:
    """Return the values that occur more than once, each once."""
    listed = list(values)
    return [value for value in dict.fromkeys(listed) if listed.count(value) > 1]
