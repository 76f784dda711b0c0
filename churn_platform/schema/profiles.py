"""Columns of an unknown customers file: their kinds, their values, and how well each predicts the target. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from churn_platform.schema.columns import MAX_TEXT_LENGTH, MISSING_TEXTS, Column, Kind
from churn_platform.schema.number_formats import Decimal, parse_dates, plain_numbers
from churn_platform.schema.typed_columns import NUMBER, WHOLE, decimals

CERTAIN: Final = 0.99  # share of the values that have to be of a kind; the others will be quarantined
MAX_CATEGORIES: Final = 50  # more are rarely categories, and each is a feature
VALUES_PER_CATEGORY: Final = 3  # a column with fewer rows for each text, such as names in a small file, is text
MAX_DATES: Final = 100_000  # distinct texts that are parsed as dates
BINS: Final = 50  # of a number, to measure how well it predicts the target
YES: Final = ("yes", "y", "true", "t", "ja", "j", "oui", "si", "sí")
NO: Final = ("no", "n", "false", "f", "nein", "non")
_MAYBE_NUMBER: Final = r"^-?[0-9][0-9.,' _\x{2019}\x{a0}\x{202f}]*([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Profile:
    """One column of an unknown file.

    Attributes:
        name: its header.
        texts: its distinct trimmed texts; missing ones are not among them.
        codes: shape (rows,): the position of each row's text in `texts`, len(texts) where the value is missing.
        kind: its kind.
        spellings: text -> 0 or 1, of a flag that has words.
        decimal: the decimal separator, if its numbers are not plainly written.
    """

    name: str
    texts: list[str]
    codes: NDArray[np.int64]
    kind: Kind
    spellings: Mapping[str, int]
    decimal: Decimal | None

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of rows with each of `texts`."""
        return np.bincount(self.codes, minlength=len(self.texts) + 1)[: len(self.texts)]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.codes)

    @property
    def missing(self) -> int:
        """Number of rows without a value."""
        return self.rows - int(self.counts.sum())

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The number of each of `texts`, NaN if it is none."""
        return _numbers(pa.chunked_array([pa.array(self.texts, pa.string())]), self.decimal)

    @cached_property
    def dates(self) -> list[date | None]:
        """The date of each of `texts`, None if it is none."""
        return parse_dates(self.texts)

    @property
    def is_unique(self) -> bool:
        """Whether nearly all values are different and hardly any is missing."""
        return len(self.texts) >= CERTAIN * self.rows

    def separation(self, left: NDArray[np.bool_], known: NDArray[np.bool_]) -> float:
        """Return the ROC AUC of this column alone, 0.5..1: of the share who left with each value or range of values.

        Args:
            left: shape (rows,), who left.
            known: shape (rows,), of whom it is known.
        """
        bins = self._bins()[known]
        gone = left[known].astype(np.float64)
        return _roc_auc(np.bincount(bins, weights=gone), np.bincount(bins, weights=1 - gone))

    def _bins(self) -> NDArray[np.int64]:
        """Return the value or the range of values of each row, as a number from 0. Shape (rows,)."""
        if len(self.texts) <= BINS or self.kind in ("category", "flag"):
            return self.codes
        if self.kind == "text":
            missing: NDArray[np.int64] = (self.codes == len(self.texts)).astype(np.int64)
            return missing
        if self.kind == "date":
            values = np.array([np.nan if each is None else each.toordinal() for each in self.dates])
        else:
            values = self.numbers
        ranks = np.full(len(values) + 1, BINS, np.int64)
        known = np.flatnonzero(~np.isnan(values))
        order = known[np.argsort(values[known], kind="stable")]
        before = np.cumsum(self.counts[order]) - self.counts[order]
        ranks[order] = before * BINS // max(int(self.counts[order].sum()), 1)
        bins: NDArray[np.int64] = ranks[self.codes]
        return bins


def profiles(columns: Mapping[str, pa.ChunkedArray]) -> list[Profile]:
    """Return the profile of each column.

    Args:
        columns: header -> texts.
    """
    trimmed = {name: pc.utf8_trim_whitespace(texts) for name, texts in columns.items()}
    formats = _formats(trimmed)
    return [_profile(name, texts, formats.get(name)) for name, texts in trimmed.items()]


def _formats(columns: Mapping[str, pa.ChunkedArray]) -> Mapping[str, Decimal]:
    """Return the decimal separators as the reader detects them; empty if all numbers are plainly written."""
    numbers = {name: texts for name, texts in columns.items() if _share(texts, _MAYBE_NUMBER) >= CERTAIN}
    if all(_share(texts, NUMBER) >= CERTAIN for texts in numbers.values()):
        return {}
    return decimals(numbers, {name: Column(name=name, kind="number") for name in numbers})


def _profile(name: str, texts: pa.ChunkedArray, decimal: Decimal | None) -> Profile:
    for missing in (MISSING_TEXTS, MISSING_TEXTS[:1]):
        known = pc.if_else(pc.is_in(texts, value_set=pa.array(missing)), pa.scalar(None, pa.string()), texts)
        encoded = known.dictionary_encode().combine_chunks()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        distinct = encoded.dictionary.to_pylist()
        codes = pc.fill_null(encoded.indices, len(distinct)).to_numpy(zero_copy_only=False).astype(np.int64)
        counts = np.bincount(codes, minlength=len(distinct) + 1)[: len(distinct)]
        kind, spellings = _kind(distinct, counts, decimal)
        if kind not in ("category", "text"):  # of these, texts such as NA are values
            break
    return Profile(name, distinct, codes, kind, spellings, decimal)


def _kind(texts: list[str], counts: NDArray[np.int64], decimal: Decimal | None) -> tuple[Kind, Mapping[str, int]]:
    rows = int(counts.sum())
    if not rows:
        return "text", {}
    array = pa.chunked_array([pa.array(texts, pa.string())])
    plain = array if decimal is None else plain_numbers(array, decimal)
    if set(texts) <= {"0", "1", "0.0", "1.0"}:
        return "flag", {}
    if _weighted(plain, WHOLE, counts) >= CERTAIN:
        return "whole", {}
    if _weighted(plain, NUMBER, counts) >= CERTAIN:
        return "number", {}
    lowered = {text.lower() for text in texts}
    if len(texts) == len(lowered) == 2 and lowered & set(YES) and lowered & set(NO):
        return "flag", {text: int(text.lower() in YES) for text in texts}
    if _are_dates(texts, counts):
        return "date", {}
    distinct = len(texts)
    few = distinct <= MAX_CATEGORIES and distinct * VALUES_PER_CATEGORY <= rows
    if few and all(len(text) <= MAX_TEXT_LENGTH and text == text.strip() for text in texts):
        return "category", {}
    return "text", {}


def _are_dates(texts: list[str], counts: NDArray[np.int64]) -> bool:
    if len(texts) > MAX_DATES or not re.search(r"[0-9]{4}", texts[0]):
        return False
    known = np.array([each is not None for each in parse_dates(texts)])
    return bool(counts[known].sum() >= CERTAIN * counts.sum())


def _share(texts: pa.ChunkedArray, pattern: str) -> float:
    """Return the share of values that a pattern matches, missing ones not counted."""
    known = texts.filter(pc.invert(pc.is_in(texts, value_set=pa.array(MISSING_TEXTS))))
    return (pc.sum(pc.match_substring_regex(known, pattern)).as_py() or 0) / max(len(known), 1)


def _weighted(texts: pa.ChunkedArray, pattern: str, counts: NDArray[np.int64]) -> float:
    matched = pc.match_substring_regex(texts, pattern).to_numpy()
    return float(counts[matched].sum() / counts.sum())


def _numbers(texts: pa.ChunkedArray, decimal: Decimal | None) -> NDArray[np.float64]:
    plain = texts if decimal is None else plain_numbers(texts, decimal)
    valid = pc.match_substring_regex(plain, NUMBER)
    numbers: NDArray[np.float64] = pc.cast(
        pc.if_else(valid, plain, pa.scalar(None, pa.string())), pa.float64()
    ).to_numpy()
    return numbers


def _roc_auc(positives: NDArray[Any], negatives: NDArray[Any]) -> float:
    """Return the ROC AUC of groups, scored by their share of positives; 0.5 if there is only one class."""
    total, others = float(positives.sum()), float(negatives.sum())
    if not total or not others:
        return 0.5
    used = np.flatnonzero(positives + negatives)
    share = positives[used] / (positives[used] + negatives[used])
    order = used[np.argsort(share, kind="stable")]
    below = np.cumsum(negatives[order]) - negatives[order]
    return float((positives[order] * (below + negatives[order] / 2)).sum() / (total * others))


def left_rows(target: Profile, values: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return who left, and of whom it is known. Two of shape (rows,).

    Args:
        target: the target.
        values: the texts that mean that a customer left.
    """
    left = np.isin(target.codes, [target.texts.index(value) for value in values])
    return left, target.codes < len(target.texts)
