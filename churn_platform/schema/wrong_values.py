"""Values of a customers file that break the rules of their column: their kinds, counts, examples and remedies.

A message never shows a text that may be a customer's name, because more people read logs than the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from churn_platform.schema.columns import Column

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_EXAMPLES = 3  # values of each kind and column in a message
MIN_FOR_ONE_CAUSE = 10  # fewer values of a kind have a common cause only if the column has no others
MAX_QUOTE_LENGTH = 60  # characters of a value in a message


@dataclass(frozen=True)
class Kind:
    """A kind of wrong value.

    Attributes:
        is_wrong: completes "... of 10,000 values are ".
        remedy: what to do if the whole column is of this kind; empty if single values have to be corrected.
        pattern: matches the trimmed text; the first matching kind applies.
        shown: whether a message may show the value.
    """

    is_wrong: str
    remedy: str
    pattern: re.Pattern[str]
    shown: bool = True


_NEVER = re.compile(r"(?!)")
_DIGITS = r"[-+]?[0-9]"
MISSING = Kind("missing", "Fill them in, or remove the lines.", re.compile(r""), shown=False)
NOT_WHOLE = Kind(
    "not whole",
    "Round the values, or check that the header names the right column.",
    re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"),
)
OUT_OF_RANGE = Kind(
    "out of range",
    "Check that the header names the right column and that the values have the schema's unit; or correct minimum and "
    "maximum in the schema.",
    _NEVER,
)
UNKNOWN_CATEGORY = Kind(
    "none of the categories",
    "List the values in `categories` of the column in the schema, or in its `spellings`; or set unknown = 'other'.",
    _NEVER,
    shown=False,
)
TOO_LONG = Kind(
    "too long", "Check that the header names the right column, or raise max_length in the schema.", _NEVER, shown=False
)
NOT_A_DATE = Kind(
    "not a date",
    "Write dates as YYYY-MM-DD, or check that the header names the right column.",
    re.compile(r".*", re.DOTALL),
    shown=False,
)
TEXT = Kind(
    "not a number",
    "Check that the header names the columns in the order of the values.",
    re.compile(r".*", re.DOTALL),
    shown=False,
)
DECIMAL_POINT = Kind(
    "written with a decimal point, unlike the others",
    "Write all numbers of the column alike, or set data_set.decimal in the schema.",
    _NEVER,
)
KINDS = (
    MISSING,
    Kind(
        "yes or no as words",
        "Say in the schema what they stand for, such as spellings = { Yes = 1, No = 0 }; or write 1 and 0.",
        re.compile(r"(yes|no|y|n|true|false|t|f|ja|nein|j|oui|non|s[ií])", re.IGNORECASE),
    ),
    Kind(
        "written with a comma that may separate thousands or decimals",
        'Set decimal = "," or decimal = "." in [data_set] of the schema.',
        re.compile(_DIGITS + r"{1,3},[0-9]{3}"),
    ),
    Kind(
        "written with thousands separators",
        "Write the digits without separators, such as 101348.5: format the column as a plain number before the export.",
        re.compile(
            r"(?![-+]?0,)"
            + _DIGITS
            + r"{1,3}(?:(,[0-9]{3})+(\.[0-9]+)?|([ '\u2019_\u00a0\u202f][0-9]{3})+([.,][0-9]+)?"
            r"|(\.[0-9]{3}){2,}(,[0-9]+)?|(\.[0-9]{3})+,[0-9]+)"
        ),
    ),
    Kind(
        "written with a decimal comma",
        "Write decimals with a point, such as 101348.5: export the file with English number formats.",
        re.compile(_DIGITS + r"*,[0-9]+"),
    ),
    Kind(
        "written with a currency or a unit",
        "Write the number alone.",
        re.compile(
            r"([€$£¥%]|EUR|USD|GBP|CHF)\s*" + _DIGITS + r"[0-9., ]*"
            r"|" + _DIGITS + r"[0-9., ]*\s*([€$£¥%]|EUR|USD|GBP|CHF|k|m|years?|points?)",
            re.IGNORECASE,
        ),
    ),
    Kind(
        "dates",
        "Format the column as a number before the export: a spreadsheet turns some numbers into dates.",
        re.compile(r"[0-9]{1,4}([-/.])[0-9]{1,2}\1[0-9]{1,4}"),
    ),
    Kind("not finite", "", re.compile(r"[-+]?inf(inity)?", re.IGNORECASE)),
    NOT_WHOLE,
    TEXT,
)
DATE_KINDS = (
    MISSING,
    Kind(
        "dates whose order of day and month is not known",
        "Write dates as YYYY-MM-DD.",
        re.compile(r"(0?[1-9]|1[0-2])([-/])(0?[1-9]|1[0-2])\2[0-9]{4}"),
    ),
    NOT_A_DATE,
)
SINGLE = (MISSING, NOT_WHOLE, TEXT, OUT_OF_RANGE, UNKNOWN_CATEGORY, TOO_LONG, NOT_A_DATE)
"""A few of these are typing errors; only a whole column has a common cause."""
_RULES = (None, TOO_LONG, UNKNOWN_CATEGORY, MISSING, OUT_OF_RANGE)
"""In the order of messages."""
CORRECT = "Correct the values or remove the lines."
_WHOLE = re.compile(r"-?[0-9]+(\.0+)?")


@dataclass(frozen=True)
class WrongValues:
    """Values of one column that break its rules.

    Attributes:
        column: the column.
        rows: row numbers, from 0, in order.
        texts: the values in the file, in the same order.
        filled: number of values of the column that are not missing.
        rule: the rule that values of the right type break; None if they do not have the type.
    """

    column: Column
    rows: NDArray[np.intp]
    texts: pa.Array
    filled: int
    rule: Kind | None = None

    @cached_property
    def by_kind(self) -> list[tuple[Kind, NDArray[np.intp]]]:
        """Each kind that occurs with the indices of its values. Equal texts are classified once."""
        if self.rule is not None:
            return [(self.rule, np.arange(len(self.rows)))]
        encoded = pc.dictionary_encode(self.texts)
        kinds = [_kind(text or "", self.column) for text in encoded.dictionary.to_pylist()]
        known = list(dict.fromkeys([*KINDS, *DATE_KINDS, OUT_OF_RANGE, DECIMAL_POINT]))
        code_of = {kind: code for code, kind in enumerate(known)}
        codes = np.array([code_of[kind] for kind in kinds], np.intp)[encoded.indices.to_numpy(zero_copy_only=False)]
        return [(kind, np.flatnonzero(codes == code)) for code, kind in enumerate(known) if (codes == code).any()]

    def has_one_cause(self, rows: int) -> bool:
        """Return whether most of the column is wrong in the same way: in a file with this number of rows."""
        return any(
            _is_whole_column(len(members), of=rows if kind is MISSING else self.filled)
            for kind, members in self.by_kind
        )


def merged(blocks: Sequence[tuple[int, WrongValues]], filled: int) -> list[WrongValues]:
    """Return the wrong values of one column in all blocks of a file, together, by rule.

    Args:
        blocks: the number of the block's first row, and the wrong values of one rule in it, in order.
        filled: number of values of the column in the whole file that are not missing.
    """
    rules = [rule for rule in _RULES if any(each.rule is rule for _, each in blocks)]
    together = []
    for rule in rules:
        same = [(start, each) for start, each in blocks if each.rule is rule]
        rows = np.concatenate([each.rows + start for start, each in same])
        texts = pa.concat_arrays([each.texts for _, each in same])
        together.append(WrongValues(same[0][1].column, rows, texts, filled, rule))
    return together


@dataclass(frozen=True)
class Finding:
    """Values of one column that are wrong in the same way.

    Attributes:
        column: the column.
        kind: how they are wrong.
        count: number of them.
        filled: number of values of the column that are not missing.
        rows: row numbers of the first MAX_EXAMPLES of them, from 0.
        texts: these values in the file.
    """

    column: Column
    kind: Kind
    count: int
    filled: int
    rows: tuple[int, ...]
    texts: tuple[str, ...]

    def followed_by(self, later: Finding, start: int) -> Finding:
        """Return both together, where the rows of the later one are counted from the row with number `start`."""
        free = MAX_EXAMPLES - len(self.rows)
        return Finding(
            self.column,
            self.kind,
            self.count + later.count,
            self.filled + later.filled,
            self.rows + tuple(row + start for row in later.rows[:free]),
            self.texts + later.texts[:free],
        )

    def is_whole_column(self, rows: int) -> bool:
        """Return whether most of the column is wrong in this way: in a file with this number of rows."""
        return _is_whole_column(self.count, of=rows if self.kind is MISSING else self.filled)


def findings(found: Sequence[WrongValues]) -> list[Finding]:
    """Return the wrong values of all columns by kind."""
    return [
        Finding(
            each.column,
            kind,
            len(members),
            each.filled,
            tuple(each.rows[members[:MAX_EXAMPLES]].tolist()),
            tuple(text or "" for text in each.texts.take(pa.array(members[:MAX_EXAMPLES])).to_pylist()),
        )
        for each in found
        for kind, members in each.by_kind
    ]


def describe(found: Sequence[Finding], rows: int, locations: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Return one line for each finding, and the remedies, each once.

    Args:
        found: what is wrong.
        rows: number of rows of the file.
        locations: row number -> its location as text, at least those of `rows_to_locate`.
    """
    lines: list[str] = []
    remedies: dict[str, list[str]] = {}
    for each in found:
        examples = [
            _example(text, each.kind, location=locations[row]) for row, text in zip(each.rows, each.texts, strict=True)
        ]
        others = each.count - len(examples)
        more = f" and {others:,} more" if others else ""
        lines.append(
            f"column {each.column.name}: {each.count:,} of {rows:,} values {'are' if each.count > 1 else 'is'} "
            f"{each.kind.is_wrong}: {', '.join(examples)}{more}. Expected {each.column.allowed}."
        )
        remedy = (
            each.kind.remedy
            if each.kind.remedy and (each.is_whole_column(rows) or each.kind not in SINGLE)
            else CORRECT
        )
        remedies.setdefault(remedy, []).append(each.column.name)
    return lines, [f"{', '.join(dict.fromkeys(names))}: {remedy}" for remedy, names in remedies.items()]


def rows_to_locate(found: Sequence[Finding]) -> list[int]:
    """Return the rows, in order, whose locations `describe` needs."""
    return sorted({row for each in found for row in each.rows})


def reason(column: Column, kind: Kind) -> str:
    """Return why a row with such a value is quarantined. It shows no value, so that equal reasons can be counted."""
    return f"{column.name} is {kind.is_wrong}: expected {column.allowed}"


def _is_whole_column(count: int, *, of: int) -> bool:
    return count == of or (count >= MIN_FOR_ONE_CAUSE and count * 2 > of)


def _kind(text: str, column: Column) -> Kind:
    trimmed = text.strip()
    if not trimmed or column.is_missing(trimmed):
        return MISSING
    kinds = DATE_KINDS if column.kind == "date" else KINDS
    kind = next(kind for kind in kinds[1:] if kind.pattern.fullmatch(trimmed))
    if kind is NOT_WHOLE and column.kind == "number":  # a number, which the format of the other values excludes
        return DECIMAL_POINT
    return OUT_OF_RANGE if kind is NOT_WHOLE and _WHOLE.fullmatch(trimmed) else kind  # more than 64 bits


def _example(text: str, kind: Kind, *, location: str) -> str:
    if kind is MISSING:
        return location
    text = text.strip()
    if not kind.shown:
        return f"a text of {len(text)} characters in {location} (not shown, because it may be a name)"
    return f"{shortened(text)} in {location}"


def shortened(text: str) -> str:
    """Return the text in quotes, truncated to MAX_QUOTE_LENGTH characters."""
    return repr(text if len(text) <= MAX_QUOTE_LENGTH else f"{text[:MAX_QUOTE_LENGTH]}...")
