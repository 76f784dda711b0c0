"""Messages about values that do not have the type of their column: counts by column and kind, examples and remedies.

A message never shows a customer's name, because more people read logs than the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

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
        is_wrong: completes "... of 10,000 values ".
        remedy: what to do if the whole column is of this kind; empty if single values have to be corrected.
        pattern: matches the trimmed text; the first matching kind applies.
    """

    is_wrong: str
    remedy: str
    pattern: re.Pattern[str]


_DIGITS = r"[-+]?[0-9]"
MISSING = Kind("missing", "Fill them in, or remove the lines.", re.compile(r""))
NOT_WHOLE = Kind(
    "not whole",
    "Round the values, or check that the header names the right column.",
    re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"),
)
TEXT = Kind(
    "not a number",
    "Check that the header names the columns in the order of the values.",
    re.compile(r".*", re.DOTALL),
)
KINDS = (
    MISSING,
    Kind(
        "yes or no as words",
        "Write 1 for yes and 0 for no.",
        re.compile(r"(yes|no|y|n|true|false|t|f|ja|nein|j|oui|non|s[ií])", re.IGNORECASE),
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
    Kind("out of range", "", re.compile(r"-?[0-9]+(\.0+)?")),
    NOT_WHOLE,
    TEXT,
)
SINGLE = (MISSING, NOT_WHOLE, TEXT)  # a few of these are typing errors; only a whole column has a common cause
CORRECT = "Correct the values or remove the lines."


@dataclass(frozen=True)
class WrongValues:
    """The values of one column that do not have its type.

    Attributes:
        column: the column.
        rows: row numbers, from 0, in order.
        texts: the values in the file, in the same order.
        filled: number of values of the column that are not missing.
    """

    column: Column
    rows: NDArray[np.intp]
    texts: pa.Array
    filled: int


def describe(found: Sequence[WrongValues], rows: int, locations: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Return one line for each column and kind of wrong value, and the remedies, each once.

    Args:
        found: wrong values by column.
        rows: number of rows of the file.
        locations: row number -> its location as text, at least those of `rows_to_locate`.
    """
    lines: list[str] = []
    remedies: dict[str, list[str]] = {}
    for each in found:
        for kind, members in _by_kind(each):
            whole = _is_whole_column(len(members), of=rows if kind is MISSING else each.filled)
            examples = [
                _example(each, kind, index, location=locations[row])
                for index, row in zip(members[:MAX_EXAMPLES], each.rows[members[:MAX_EXAMPLES]].tolist(), strict=True)
            ]
            others = len(members) - len(examples)
            more = f" and {others:,} more" if others else ""
            lines.append(
                f"column {each.column.name}: {len(members):,} of {rows:,} values {'are' if len(members) > 1 else 'is'} "
                f"{kind.is_wrong}: {', '.join(examples)}{more}. Expected {each.column.allowed}."
            )
            remedy = kind.remedy if kind.remedy and (whole or kind not in SINGLE) else CORRECT
            remedies.setdefault(remedy, []).append(each.column.name)
    return lines, [f"{', '.join(dict.fromkeys(names))}: {remedy}" for remedy, names in remedies.items()]


def rows_to_locate(found: Sequence[WrongValues]) -> list[int]:
    """Return the rows, in order, whose locations `describe` needs."""
    wanted = {
        int(each.rows[index]) for each in found for _, members in _by_kind(each) for index in members[:MAX_EXAMPLES]
    }
    return sorted(wanted)


def _is_whole_column(count: int, *, of: int) -> bool:
    return count == of or (count >= MIN_FOR_ONE_CAUSE and count * 2 > of)


def _by_kind(wrong: WrongValues) -> list[tuple[Kind, NDArray[np.intp]]]:
    """Return each kind that occurs with the indices of its values. Equal texts are classified once."""
    encoded = pc.dictionary_encode(wrong.texts)
    kinds = [_kind(text or "", wrong.column) for text in encoded.dictionary.to_pylist()]
    code_of = {kind: code for code, kind in enumerate(KINDS)}
    codes = np.array([code_of[kind] for kind in kinds], np.intp)[encoded.indices.to_numpy(zero_copy_only=False)]
    return [(kind, np.flatnonzero(codes == code)) for code, kind in enumerate(KINDS) if (codes == code).any()]


def _kind(text: str, column: Column) -> Kind:
    trimmed = text.strip()
    if not trimmed or column.is_missing(trimmed):
        return MISSING
    return next(kind for kind in KINDS[1:] if kind.pattern.fullmatch(trimmed))


def _example(wrong: WrongValues, kind: Kind, index: np.intp, *, location: str) -> str:
    if kind is MISSING:
        return location
    text = str(wrong.texts[int(index)].as_py()).strip()
    if kind is TEXT:
        return f"a text of {len(text)} characters in {location} (not shown, because it may be a name)"
    return f"{shortened(text)} in {location}"


def shortened(text: str) -> str:
    """Return the text in quotes, truncated to MAX_QUOTE_LENGTH characters."""
    return repr(text if len(text) <= MAX_QUOTE_LENGTH else f"{text[:MAX_QUOTE_LENGTH]}...")
