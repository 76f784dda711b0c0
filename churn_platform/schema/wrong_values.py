"""What is wrong with values that a column cannot hold, as text: counted by column and kind, with examples and remedies.

Nothing here shows a customer's name: errors end up in logs that more people read than the file itself.
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

EXAMPLES = 3  # values that are shown of each kind in a column
MANY = 10  # fewer values of a kind have one cause only if they are all that the column has
LONGEST_QUOTE = 60  # characters of a value in a message


@dataclass(frozen=True)
class Kind:
    """One way in which values are wrong.

    Attributes:
        is_wrong: completes "... of 10,000 values ".
        remedy: what to do when the whole column is so; empty: correct single values.
        pattern: of the trimmed text; the first kind that matches is taken.
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
SINGLE = (MISSING, NOT_WHOLE, TEXT)  # a few of these are typing errors; only a whole column of them has one cause
CORRECT = "Correct the values or remove the lines."


@dataclass(frozen=True)
class WrongValues:
    """The values of one column that it cannot hold.

    Attributes:
        column: the column.
        rows: row numbers, from 0, in order.
        texts: the values as the file has them, in the same order.
        filled: how many values of the column are not missing.
    """

    column: Column
    rows: NDArray[np.intp]
    texts: pa.Array
    filled: int


def described(found: Sequence[WrongValues], rows: int, places: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """One line for each column and kind of wrong value, and the remedies.

    Args:
        found: by column.
        rows: how many rows the file has.
        places: row number -> where that is, as text; those of `rows_to_place` at least.

    Returns:
        The lines, and the remedies, each once.
    """
    lines: list[str] = []
    remedies: dict[str, list[str]] = {}
    for each in found:
        for kind, members in _by_kind(each):
            whole = _is_whole_column(len(members), of=rows if kind is MISSING else each.filled)
            examples = [
                _example(each, kind, index, place=places[row])
                for index, row in zip(members[:EXAMPLES], each.rows[members[:EXAMPLES]].tolist(), strict=True)
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


def rows_to_place(found: Sequence[WrongValues]) -> list[int]:
    """The rows, in order, whose place in the file `described` wants to know."""
    wanted = {int(each.rows[index]) for each in found for _, members in _by_kind(each) for index in members[:EXAMPLES]}
    return sorted(wanted)


def _is_whole_column(count: int, *, of: int) -> bool:
    return count == of or (count >= MANY and count * 2 > of)


def _by_kind(wrong: WrongValues) -> list[tuple[Kind, NDArray[np.intp]]]:
    """The kinds that occur, and which of the values are of each; a text is looked at once, however often it occurs."""
    encoded = pc.dictionary_encode(wrong.texts)
    kinds = [_kind(text or "", wrong.column) for text in encoded.dictionary.to_pylist()]
    order = {kind: place for place, kind in enumerate(KINDS)}
    codes = np.array([order[kind] for kind in kinds], np.intp)[encoded.indices.to_numpy(zero_copy_only=False)]
    return [(kind, np.flatnonzero(codes == place)) for place, kind in enumerate(KINDS) if (codes == place).any()]


def _kind(text: str, column: Column) -> Kind:
    trimmed = text.strip()
    if not trimmed or column.is_missing(trimmed):
        return MISSING
    return next(kind for kind in KINDS[1:] if kind.pattern.fullmatch(trimmed))


def _example(wrong: WrongValues, kind: Kind, index: np.intp, *, place: str) -> str:
    if kind is MISSING:
        return place
    text = str(wrong.texts[int(index)].as_py()).strip()
    if kind is TEXT:
        return f"a text of {len(text)} characters in {place} (not shown, because it may be a name)"
    return f"{shortened(text)} in {place}"


def shortened(text: str) -> str:
    """The text in quotes, cut after LONGEST_QUOTE characters."""
    return repr(text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}...")
