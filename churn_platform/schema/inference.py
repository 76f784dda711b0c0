"""A draft of a customer schema from a customers file, as commented TOML. It is valid; a person completes it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from churn_platform.files.artifacts import in_s3
from churn_platform.schema.columns import (
    MAX_SQL_NAME_BYTES,
    MAX_TEXT_LENGTH,
    MAX_WHOLE,
    MISSING,
    OTHER,
    Kind,
    as_words,
    snake_case,
)
from churn_platform.schema.exceptions import HeaderError, SchemaError
from churn_platform.schema.profiles import Profile, left_rows, profiles
from churn_platform.schema.reader import open_source, read_contents
from churn_platform.schema.rules import (
    IN_FIELD_NAMES,
    IN_XGBOOST_NAMES,
    MAX_EXACT,
    MAX_FEATURES,
    MAX_ID_LENGTH,
    PLATFORM_COLUMNS,
    PLATFORM_FIELDS,
    TABLE_NAME,
)
from churn_platform.schema.toml_file import parse_schema
from churn_platform.schema.toml_keys import MAX_COLUMNS, MAX_LABEL_LENGTH, MAX_NAME_LENGTH, MAX_NUMBER

LEAK: Final = 0.99  # ROC AUC of one column alone. What is known before a customer leaves never separates so well
STRONG: Final = 0.9  # ROC AUC that a person should look at
FEW: Final = 12  # categories of a segment; a table of reports with more is hard to read
MAX_SEGMENTS, MAX_AVERAGED, MAX_SUMMARY = 4, 3, 4
COMPLETE: Final = 3  # a list of so few categories is complete; others that come later are errors
WIDE: Final = 1_000  # whole numbers with a wider range are scaled
LARGEST: Final[dict[Kind, float]] = {"whole": MAX_EXACT / 10, "number": MAX_NUMBER / 10}
"""Largest number of a column that is used: its range, with a margin, can be represented exactly."""
SMALLEST: Final = 1e-100  # a range is at least so wide: scaling divides by it, and the quotient has to be a number
MARGIN_YEARS: Final = 10  # how far beyond the latest date of the file dates may lie
SPARSE: Final = 0.5  # a column with more missing values is worth a remark
MIN_COLUMNS: Final = 3

_ID_WORDS: Final = re.compile(
    r"(^|_)(id|uid|uuid|guid|number|no|nr|num|key|code|customer|client|account|member|subscriber|user)(_|$)"
)
_TARGET: Final = re.compile(
    r"churn|attrit|cancel|leav|left|quit|lost|gone|exit|terminat|kuend|künd|target|label|outcome"
)
_LEFT: Final = re.compile(
    r"^(1|yes|y|true|t|ja|oui|s[ií])$|churn|attrit|cancel|leav|left|quit|lost|gone|exit|terminat|closed"
)
_MONEY: Final = re.compile(r"charge|revenue|spend|spent|amount|fee|value|price|balanc|arpu|mrr|turnover|premium|sales")
_ABBREVIATIONS: Final = {
    "acct": "account",
    "amt": "amount",
    "avg": "average",
    "cnt": "count",
    "cr": "credit",
    "cust": "customer",
    "num": "number",
    "pct": "percentage",
    "qty": "quantity",
}
"""Words of columns' names that labels have in full."""
_PERSONAL: Final = re.compile(
    r"(^|first|last|sur|full|given|family|middle|user)_?name$|(mail|phone|mobile|address|street)(_?(number|no|nr))?$"
)


@dataclass
class _Draft:
    """A column of the draft: its name in the schema, comments above its table, and keys with their TOML."""

    profile: Profile
    name: str
    comments: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    features: list[str] = field(default_factory=list)


def infer_schema(place: str, *, identity: str = "", target: str = "", left: str = "") -> str:
    """Return the draft of a schema for a customers file, as TOML. `parse_schema` accepts it.

    Args:
        place: a path or an s3:// address of a file or a folder.
        identity: header of the column that identifies a customer; empty to guess it.
        target: header of the column that says whether a customer left; empty to guess it.
        left: its value that means that a customer left; empty to guess it.

    Raises:
        CustomersFileError: the file cannot be read.
        SchemaError: no column can be the id, or none can be the target.
    """
    columns, omitted, rows, detected = _texts(place)
    found = profiles(columns)
    for option, name in (("--id", identity), ("--target", target)):
        if name and name not in columns:
            raise SchemaError(
                f"{place} has no column {name}. It has {', '.join(columns)}.", remedy=f"Correct {option}."
            )
    the_id = _identity(place, found, identity)
    the_target = _target(place, [each for each in found if each is not the_id], target)
    left_text = _left(the_target, left)
    gone = [text for text in the_target.texts if text == left_text]
    leavers, known = left_rows(the_target, gone)

    names = _Names()
    drafts = [_id_draft(the_id, names)]
    target_draft = _target_draft(the_target, left_text, names)
    for profile in found:
        if profile is the_id or profile is the_target:
            continue
        reason = _why_left_out(profile)
        if not reason and len(drafts) >= MAX_COLUMNS - 1:
            reason = f"a schema has at most {MAX_COLUMNS} columns"
        if reason:
            omitted.append((profile.name, reason))
            continue
        drafts.append(_draft(profile, profile.separation(leavers, known), names))
    drafts.append(target_draft)
    if len(drafts) < MIN_COLUMNS or not any(each.features for each in drafts):
        raise SchemaError(
            f"{place} has no column that can be a feature: besides the id and the target, all have one value, or are "
            f"different in every row, or predict the target perfectly.",
            remedy="Export the customers with more columns.",
        )
    _choose_reports(drafts)
    text = _document(place, rows, detected, drafts, omitted, the_id=drafts[0], target=target_draft, left=left_text)
    parse_schema(text, origin=f"that was drafted from {place}")
    return text


def _texts(place: str) -> tuple[dict[str, pa.ChunkedArray], list[tuple[str, str]], int, list[str]]:
    """Return header -> texts of the file, columns without texts and why, the number of rows, and the files' formats."""
    header: list[str] = []
    unreadable: dict[str, str] = {}
    tables, detected = [], []
    for each in read_contents(place):
        source = open_source(each.name, each.content)
        names = [name for name in source.header if name]
        repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if repeated:
            raise HeaderError(
                f"{each.name}, {source.header_place} names column {repeated[0]} {names.count(repeated[0])} times.",
                remedy="Rename one of them.",
            )
        header = header or names
        missing = [name for name in header if name not in names]
        if missing:
            raise HeaderError(
                f"{each.name}, {source.header_place} lacks the columns {', '.join(missing)} of the first file.",
                remedy="Give all files the same columns, or put other files elsewhere.",
            )
        unreadable |= source.unreadable
        header = [name for name in header if name not in unreadable]
        table, _ = source.texts([source.header.index(name) for name in header])
        tables.append(table.rename_columns(header))
        detected.append(f"{each.name}: {source.detected}")
    table = pa.concat_tables([each.select(header) for each in tables])
    if not table.num_rows:
        raise HeaderError(f"{place} has a header and no customers.", remedy="Export it with the customers.")
    texts = {name: _filled(table.column(name)) for name in header}
    omitted = [(name, f"its values are of type {kind}") for name, kind in unreadable.items()]
    return texts, omitted, table.num_rows, detected


def _filled(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return texts.fill_null("")


def _identity(place: str, found: Sequence[Profile], given: str) -> Profile:
    """Return the column that identifies a customer: different in every row, and called so if there are several."""
    if given:
        return next(each for each in found if each.name == given)
    unique = [
        each
        for each in found
        if each.is_unique
        and each.kind in ("whole", "text", "category")
        and not _PERSONAL.search(snake_case(each.name))
        and max(map(len, each.texts)) <= MAX_ID_LENGTH
    ]
    if not unique:
        raise SchemaError(
            f"No column of {place} identifies the customers: none has a whole number or a text that is different in "
            f"every row.",
            remedy="Name the column with --id, or add one to the file.",
        )
    return max(
        unique,
        key=lambda each: (
            _ID_WORDS.search(snake_case(each.name)) is not None and not _is_counter(each),
            not _is_counter(each),
        ),
    )


def _is_counter(profile: Profile) -> bool:
    """Return whether a column numbers the rows."""
    numbers = profile.numbers
    return (
        profile.kind == "whole"
        and len(numbers) == profile.rows
        and bool((np.diff(numbers) == 1).all())
        and numbers[0] in (0, 1)
    )


def _target(place: str, found: Sequence[Profile], given: str) -> Profile:
    """Return the column that says whether a customer left: of two values, called so, else the last of them."""
    if given:
        profile = next((each for each in found if each.name == given), None)
        if profile is None or profile.kind not in ("flag", "category", "whole") or len(profile.texts) < 2:
            raise SchemaError(
                f"The column {given} of {place} cannot be the target. Expected one with two or a few values.",
                remedy="Name another one with --target.",
            )
        return profile
    binary = [each for each in found if len(each.texts) == 2 and each.kind in ("flag", "category", "whole")]
    if not binary:
        raise SchemaError(
            f"No column of {place} says whether a customer left: none has two values.",
            remedy="Name the column with --target, and the value of those who left with --left.",
        )
    named = [each for each in binary if _TARGET.search(snake_case(each.name))]
    return (named or binary)[-1]


def _left(target: Profile, given: str) -> str:
    """Return the text of the target that means that a customer left: by its name, else the rarer one."""
    if given:
        if given not in target.texts:
            raise SchemaError(
                f"The column {target.name} has no value {given!r}. It has {', '.join(map(repr, target.texts))}.",
                remedy="Correct --left.",
            )
        return given
    named = [text for text in target.texts if _LEFT.search(text.lower())]
    if len(named) == 1:
        return named[0]
    return target.texts[int(np.argmin(target.counts))]


def _why_left_out(profile: Profile) -> str:
    if not profile.name.isprintable() or len(profile.name) > MAX_NAME_LENGTH:
        return "its header is too long, or has characters that cannot be printed"
    if not profile.texts:
        return "it is empty in every row"
    if len(profile.texts) == 1:
        return f"it has the same value in every row{' that has one' if profile.missing else ''}"
    return "it numbers the rows" if _is_counter(profile) else ""


class _Names:
    """Names that are taken: of columns, of features, and in tables."""

    def __init__(self) -> None:
        self._columns: set[str] = set()
        self._features: set[str] = set()
        self._tables: set[str] = {*PLATFORM_COLUMNS, "avg_risk_score", "risk_sum", "risk_count"}

    def column(self, header: str) -> str:
        """Return a name for a column that a schema allows, and that no other column or feature has."""
        name = "".join(
            each if each.isprintable() else " " for each in IN_FIELD_NAMES.sub("_", IN_XGBOOST_NAMES.sub("_", header))
        ).strip()
        name = name[: MAX_NAME_LENGTH - MAX_TEXT_LENGTH // 2].strip() or "column"
        if name in PLATFORM_FIELDS:
            name = f"customer_{name}"
        name = _free(name, self._columns | self._features)
        self._columns.add(name)
        return name

    def features(self, names: Sequence[str], own: str) -> bool:
        """Take the names of a column's features. Return whether they are free; the column's own name is."""
        taken = [name for name in names if name != own and name in self._columns | self._features]
        if taken or len(self._features) + len(names) > MAX_FEATURES:
            return False
        self._features.update(names)
        return True

    def table(self, name: str) -> str:
        """Return the name in tables: the one derived from the column's name, or another if that cannot be used."""
        plain = re.sub(r"\W", "", snake_case(name)) or "column"
        plain = plain if re.match(r"[^\W\d]", plain) else f"c_{plain}"
        while len(plain.encode()) > MAX_SQL_NAME_BYTES - 4:  # room for a number
            plain = plain[:-1]
        if plain in self._tables:
            plain = f"customer_{plain}"[: MAX_SQL_NAME_BYTES - 4]
        chosen = snake_case(name) if self._can_be_derived(name) else _free(plain, self._tables)
        self._tables |= {chosen, f"avg_{chosen}", f"{chosen}_sum", f"{chosen}_count"}
        return chosen

    def _can_be_derived(self, name: str) -> bool:
        derived = snake_case(name)
        fits = len(derived.encode()) <= MAX_SQL_NAME_BYTES and TABLE_NAME.fullmatch(derived)
        return bool(fits) and derived == derived.lower() and derived not in self._tables


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _new(profile: Profile, names: _Names, kind: Kind) -> _Draft:
    draft = _Draft(profile, names.column(profile.name))
    draft.keys["kind"] = _toml(kind)
    if draft.name != profile.name:
        draft.keys["headers"] = _toml([profile.name])
    return draft


def _id_draft(profile: Profile, names: _Names) -> _Draft:
    draft = _new(profile, names, "whole" if profile.kind == "whole" else "text")
    repeated = profile.rows - profile.missing - len(profile.texts)
    draft.comments.append(f"Identifies the customer: {len(profile.texts):,} different values in {profile.rows:,} rows.")
    if repeated or profile.missing:
        draft.comments.append(
            f"{repeated:,} rows repeat the value of another row, {profile.missing:,} have none. Such rows are dropped "
            f"if they are the same, else quarantined."
        )
    if profile.kind == "whole":
        draft.keys["minimum"] = "0" if float(np.nanmin(profile.numbers)) >= 0 else str(-MAX_WHOLE)
        draft.keys["maximum"] = f"{MAX_WHOLE:_} # 2^62"
    else:
        draft.keys["max_length"] = str(min(max(20, 2 * max(map(len, profile.texts))), MAX_ID_LENGTH))
    return draft


def _target_draft(profile: Profile, left: str, names: _Names) -> _Draft:
    draft = _new(profile, names, profile.kind)
    count = int(profile.counts[profile.texts.index(left)])
    share = count / max(profile.rows - profile.missing, 1)
    draft.comments.append(
        f"What the model predicts: {count:,} customers ({share:.1%}) have {left!r}, which means they left."
    )
    if share > 0.5:
        draft.comments.append("That is more than half: check that data_set.left names the right value.")
    if profile.kind == "category":
        draft.keys["categories"] = _toml(sorted(profile.texts))
    elif profile.spellings:
        draft.keys["spellings"] = _toml_table(profile.spellings)
    elif profile.kind == "whole":
        draft.keys["minimum"], draft.keys["maximum"] = (str(int(each)) for each in _range(profile))
    if profile.missing:
        draft.comments.append(f"{profile.missing:,} rows have no value and are not used for training.")
        draft.keys["missing"] = _toml("drop")
    return draft


def _draft(profile: Profile, separation: float, names: _Names) -> _Draft:
    kind = profile.kind
    leak = separation >= LEAK
    many = kind == "text" or (kind == "category" and len(profile.texts) > FEW)
    personal = many and bool(_PERSONAL.search(snake_case(profile.name)))
    another_id = kind == "whole" and profile.is_unique
    unreadable = kind == "date" and not any(profile.dates)
    if leak or personal or another_id or unreadable or (kind in LARGEST and _largest(profile) > LARGEST[kind]):
        kind = "text"
    draft = _new(profile, names, kind)
    if leak:
        draft.comments.append(
            f"Suspected leak: alone it predicts {'perfectly' if separation > 0.9999 else 'almost perfectly'} who left "
            f"(ROC AUC {separation:.3f}). It was probably written after the customer had left, or because of it."
        )
        draft.comments.append("It is not used. If it is known before a customer leaves, give it its kind and features.")
    elif separation >= STRONG:
        draft.comments.append(
            f"Predicts well who left (ROC AUC {separation:.2f} alone). Check that it is known before a customer leaves."
        )
    if kind == "text":
        if another_id:
            draft.comments.append("Different in every row, so not used: it identifies the customer, too.")
        elif not leak:
            draft.comments.append(
                "Personal, so not used." if personal else f"{len(profile.texts):,} different texts: not used."
            )
        draft.keys |= {"missing": _toml("ignore"), "optional": "true"}
        return draft
    draft.comments.append(_observed(profile))
    {"category": _category_keys, "date": _date_keys, "flag": _flag_keys}.get(kind, _number_keys)(draft)
    if profile.missing and kind != "category":
        draft.keys["missing"] = _toml("median")
    own = [f"{draft.name}Days"] if kind == "date" else [draft.name]
    if kind == "category":
        own = [f"{draft.name}_{each}" for each in _categories(draft)]
    if IN_XGBOOST_NAMES.search("".join(own)) or not names.features(own, draft.name):
        draft.keys.pop("features")
        draft.keys.pop("days_since", None)
        draft.comments.append("Not a feature: the names of its features are those of others, or there are too many.")
    else:
        draft.features = own
        table = names.table(draft.name)
        if table != snake_case(draft.name):
            draft.keys["sql_name"] = _toml(table)
    return draft


def _observed(profile: Profile) -> str:
    """Return what the values of a column are."""
    if profile.kind == "date":
        days = [each for each in profile.dates if each is not None]
        text = f"From {min(days)} to {max(days)}"
    elif profile.kind in ("whole", "number"):
        text = f"From {np.nanmin(profile.numbers):,.10g} to {np.nanmax(profile.numbers):,.10g}"
    else:
        text = f"{len(profile.texts)} different values"
    missing = f"; {profile.missing:,} of {profile.rows:,} are missing" if profile.missing else ""
    return f"{text}{missing}{' (more than half)' if profile.missing > SPARSE * profile.rows else ''}."


def _category_keys(draft: _Draft) -> None:
    texts = sorted(draft.profile.texts)
    plain = {
        text: "".join(each for each in IN_XGBOOST_NAMES.sub("", text) if each.isprintable()).strip() for text in texts
    }
    plain = {text: value or "blank" for text, value in plain.items()}
    draft.keys["categories"] = _toml(sorted(set(plain.values())))
    changed = {text: value for text, value in plain.items() if text != value}
    if changed:
        draft.keys["spellings"] = _toml_table(changed)
    if len(texts) > COMPLETE:
        draft.keys["unknown"] = _toml("other")
    if draft.profile.missing:
        draft.keys["missing"] = _toml("category")
    draft.keys["features"] = _toml(["one_hot"])


def _categories(draft: _Draft) -> list[str]:
    names: list[str] = json.loads(draft.keys["categories"])
    more = [OTHER] * ("unknown" in draft.keys) + [MISSING] * ("missing" in draft.keys)
    return [*dict.fromkeys([*names, *more])]


def _date_keys(draft: _Draft) -> None:
    days = [each for each in draft.profile.dates if each is not None]
    draft.keys["minimum"] = date(max(min(days).year - 1, 1), 1, 1).isoformat()
    draft.keys["maximum"] = date(min(max(days).year + MARGIN_YEARS, 9999), 12, 31).isoformat()
    draft.keys["features"] = _toml(["days_since"])
    draft.keys["days_since"] = draft.keys["minimum"]


def _flag_keys(draft: _Draft) -> None:
    if draft.profile.spellings:
        draft.keys["spellings"] = _toml_table(draft.profile.spellings)
    draft.keys["features"] = _toml(["value"])


def _number_keys(draft: _Draft) -> None:
    low, high = _range(draft.profile)
    whole = draft.profile.kind == "whole"
    draft.keys["minimum"], draft.keys["maximum"] = (_number(each, whole=whole) for each in (low, high))
    draft.keys["features"] = _toml(["min_max" if not whole or high - low > WIDE else "value"])


def _range(profile: Profile) -> tuple[float, float]:
    """Return the smallest and largest number with a margin: about twice as far from 0."""
    low, high = float(np.nanmin(profile.numbers)), float(np.nanmax(profile.numbers))
    upper = _twice(high) if high > 0 else 0.0
    lower = -_twice(-low) if low < 0 else 0.0
    return (lower, upper) if lower < upper else (lower, 1.0)


def _twice(number: float) -> float:
    """Return a round number of one digit (1, 2 or 5), at least twice the number and not below SMALLEST."""
    least = max(2 * number, SMALLEST)
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-12))


def _number(value: float, *, whole: bool) -> str:
    if whole:
        return f"{max(min(math.floor(value) if value < 0 else math.ceil(value), MAX_EXACT), -MAX_EXACT):_}"
    return f"{int(value):_}" if value.is_integer() and abs(value) < MAX_EXACT else repr(value)


def _largest(profile: Profile) -> float:
    return float(np.nanmax(np.abs(profile.numbers)))


def _choose_reports(drafts: Sequence[_Draft]) -> None:
    """Choose what reports show: segments, averages, the money at risk, and the columns of summaries."""
    used = [each for each in drafts if each.features]
    segments = [each for each in used if each.profile.kind == "category" and len(_categories(each)) <= FEW][
        :MAX_SEGMENTS
    ]
    numbers = [each for each in used if each.profile.kind in ("whole", "number")]
    money = [each for each in numbers if _MONEY.search(snake_case(each.profile.name))][:1]
    averaged = [*money, *(each for each in numbers if each not in money)][:MAX_AVERAGED]
    for each in segments:
        each.keys["segment"] = "true"
    for each in averaged:
        each.keys["averaged"] = "true"
    for each in money:
        each.keys["money_at_risk"] = "true # the money that is lost with the customer"
    for each in [*money, *segments, *averaged][:MAX_SUMMARY]:
        each.keys["summary"] = "true"


def _document(
    place: str,
    rows: int,
    detected: Sequence[str],
    drafts: Sequence[_Draft],
    omitted: Sequence[tuple[str, str]],
    *,
    the_id: _Draft,
    target: _Draft,
    left: str,
) -> str:
    profile = target.profile
    value = profile.spellings.get(left, left)
    if profile.kind in ("flag", "whole"):
        value = int(float(value))
    stem = re.sub(r"[^a-z0-9]+", "_", Path(place.rstrip("/")).name.split(".")[0].lower()).strip("_")
    lines = [
        f"# A draft, from the {rows:,} rows of {place}.",
        *(f"# {each}" for each in detected),
        "# Check every column: its kind, range and unit, and that its value is known before a customer leaves.",
        "# Correct labels and add descriptions. docs/reference/customer-schema.md explains every key. 'churn schema",
        "# check' checks this file, and a customers file against it.",
        "",
        "[data_set]",
        f"name = {_toml(stem[:63] if re.match('[a-z]', stem) else f'data_{stem}'[:63].rstrip('_'))}",
        'description = "" # what the customers are, in one sentence',
        f"id = {_toml(the_id.name)}",
        f"target = {_toml(target.name)}",
        f"left = {_toml(value)} # the value of the target that means that the customer left",
        'currency = "" # of amounts of money, such as "EUR"',
        f"customers_file = {_toml(place if in_s3(place) else str(Path(place).resolve()))}",
        "largest_quarantined_share = 0.01 # of a file's rows; with more, nothing is trained",
        "least_roc_auc = 0.6 # out of fold; a first model with less is not promoted",
    ]
    if omitted:
        lines += ["", "# Left out:", *(f"# - {_comment(name)}: {reason}." for name, reason in omitted)]
    for each in drafts:
        lines += ["", f"[columns.{_toml_key(each.name)}]", *(f"# {_comment(text)}" for text in each.comments)]
        lines += [f"{key} = {value}" for key, value in each.keys.items()]
        if words := _label(each.name):
            lines.append(f"label = {_toml(words)}")
        lines.append('description = ""')
    return "\n".join(lines) + "\n"


def _label(name: str) -> str:
    """Return a name for people, with common abbreviations in full; nothing if it would be too long."""
    words = [_ABBREVIATIONS.get(word, word) for word in snake_case(name).split("_")]
    text = as_words("_".join(words))
    return text if len(text) <= MAX_LABEL_LENGTH else ""


def _comment(text: str) -> str:
    """Return a text that fits in one line of a comment."""
    return "".join(each if each.isprintable() else " " for each in text)


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_table(values: Mapping[str, object]) -> str:
    return "{ " + ", ".join(f"{_toml(key)} = {_toml(value)}" for key, value in values.items()) + " }"
