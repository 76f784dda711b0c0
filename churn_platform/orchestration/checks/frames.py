"""Asset checks of frames, from one factory: schema, nulls, ranges, categories, uniqueness and column order."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeAlias

import dagster as dg
import numpy as np
import pandas as pd

from churn_platform.files.stored_frame import Frame, StoredFrame
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.pieces import all_different

Bounds: TypeAlias = tuple[float | date, float | date]
"""Smallest and largest allowed value, both numbers or both dates."""

MAX_EXAMPLES = 5  # values in a message: a wrong column may have thousands of unknown categories


@dataclass(frozen=True)
class Rule:
    """A rule that a frame has to satisfy.

    Attributes:
        name: name of the check.
        expected: the rule as text.
        violations: returns one text for each violation of a frame.
        blocking: whether downstream assets are not materialized from a frame that violates the rule; else it warns.
    """

    name: str
    expected: str
    violations: Callable[[Frame], list[str]]
    blocking: bool = True


def schema_rule(dtypes: Mapping[str, str]) -> Rule:
    """Return the rule that these columns exist with these dtypes. Other columns are allowed.

    Texts are `object`, whether the frame holds them as objects or as categories.
    """

    def violations(frame: Frame) -> list[str]:
        found = {
            str(name): "object" if isinstance(dtype, pd.CategoricalDtype) else str(dtype)
            for name, dtype in frame.dtypes.items()
        }
        return [
            f"{name} is {found.get(name, 'missing')}, not {dtype}"
            for name, dtype in dtypes.items()
            if found.get(name) != dtype
        ]

    return Rule("schema", ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items()), violations)


def nulls_rule(columns: Sequence[str], schema: CustomerSchema) -> Rule:
    """Return the rule that the columns have no nulls. A missing column counts as all null."""

    def violations(frame: Frame) -> list[str]:
        # Column by column: pandas would copy the frame for a question about all of them.
        nulls = {name: _nulls(frame[name]) if name in frame else frame for name in columns}
        return [f"{name} is null in {_share(rows, frame, schema)}" for name, rows in nulls.items() if len(rows)]

    return Rule("nulls", f"no null in {', '.join(columns)}", violations)


def ranges_rule(ranges: Mapping[str, Bounds], schema: CustomerSchema) -> Rule:
    """Return the rule that values are in the range of their column, bounds included. Nulls are ignored."""

    def violations(frame: Frame) -> list[str]:
        wrong = [f"{name} is missing" for name in ranges if name not in frame]
        for name, (minimum, maximum) in ranges.items():
            if name not in frame:
                continue
            values = frame[name]
            low, high = (np.datetime64(each, "s") if isinstance(each, date) else each for each in (minimum, maximum))
            outside = values[(values < low) | (values > high)]
            if len(outside):
                wrong.append(f"{name} is {_span(outside.min(), outside.max())} in {_share(outside, frame, schema)}")
        return wrong

    expected = ", ".join(f"{name} {_span(minimum, maximum)}" for name, (minimum, maximum) in ranges.items())
    return Rule("ranges", expected, violations)


def categories_rule(categories: Mapping[str, Sequence[str]], schema: CustomerSchema) -> Rule:
    """Return the rule that values are categories of their column. Nulls are ignored."""

    def violations(frame: Frame) -> list[str]:
        wrong = [f"{name} is missing" for name in categories if name not in frame]
        for name, known in categories.items():
            values = frame[name] if name in frame else pd.Series(dtype="object")
            unknown = values[~values.isin(list(known))].dropna()
            if len(unknown):
                texts = sorted(map(str, unknown.unique()))
                # So many different texts are not categories. They are from another column, perhaps customers' names.
                kinds = (
                    ", ".join(map(repr, texts))
                    if len(texts) <= MAX_EXAMPLES
                    else f"one of {len(texts):,} other texts (not shown, because they may be names)"
                )
                wrong.append(f"{name} is {kinds} in {_share(unknown, frame, schema)}")
        return wrong

    expected = "; ".join(f"{name} {' or '.join(known)}" for name, known in categories.items())
    return Rule("categories", expected, violations)


def unique_rule(name: str, schema: CustomerSchema) -> Rule:
    """Return the rule that no two rows have the same value in this column, copies of a row included."""
    counted = {column.name for column in schema.columns if column.counted}  # differs even in copies of a row

    def violations(frame: Frame) -> list[str]:
        if name not in frame:
            return [f"{name} is missing"]
        if all_different(frame[name].to_numpy()):  # in a tenth of the time that finding the repeated ones takes
            return []
        is_repeated = frame[name].duplicated(keep=False).to_numpy()
        repeated = frame.where_rows(is_repeated) if isinstance(frame, StoredFrame) else frame[is_repeated]
        distinct = repeated.drop_duplicates(subset=[column for column in frame if column not in counted])[name]
        differs = repeated[name].isin(distinct[distinct.duplicated()])
        return [
            f"{rows.nunique():,} values of {name} are in {len(rows):,} of {len(frame):,} rows, {what}: "
            f"{', '.join(map(str, rows.unique()[:MAX_EXAMPLES]))}"
            for rows, what in (
                (repeated.loc[~differs, name], "which are equal (remove the copies)"),
                (repeated.loc[differs, name], "which differ (keep the correct one)"),
            )
            if len(rows)
        ]

    return Rule("unique", f"every {name} in one row only", violations)


def column_order_rule(columns: Sequence[str]) -> Rule:
    """Return the rule that the frame has exactly these columns, in this order."""

    def violations(frame: Frame) -> list[str]:
        found = [str(name) for name in frame.columns]
        return [] if found == list(columns) else [f"the columns are {', '.join(found)}"]

    return Rule("column_order", ", ".join(columns), violations)


def frame_checks(asset: str, rules: Sequence[Rule], *, stored: bool = False) -> dg.AssetChecksDefinition:
    """Return checks of an asset whose value is a frame.

    Args:
        asset: name of the asset.
        rules: one check each.
        stored: whether the checks read one column after the other, because the frame may be larger than memory.
            Otherwise it is loaded once for all of them.
    """
    key = dg.AssetKey(asset)
    specs = [
        dg.AssetCheckSpec(rule.name, asset=key, blocking=rule.blocking, description=f"Expected: {rule.expected}.")
        for rule in rules
    ]

    decorated = dg.multi_asset_check(
        name=f"{key.to_python_identifier()}_checks",
        specs=specs,
        ins={"frame": dg.AssetIn(key)},
        compute_kind="pandas",
    )

    def checks(frame: pd.DataFrame) -> Iterator[dg.AssetCheckResult]:
        yield from (_result(key, rule, frame) for rule in rules)

    def checks_of_stored(frame: StoredFrame) -> Iterator[dg.AssetCheckResult]:
        yield from (_result(key, rule, frame) for rule in rules)

    return decorated(checks_of_stored if stored else checks)


def _nulls(values: pd.Series) -> pd.Series:
    return values[values.isna()]


def _span(minimum: float | date, maximum: float | date) -> str:
    if maximum in (math.inf, date.max):
        return f"{_digits(minimum)} or more"
    if minimum in (-math.inf, date.min):
        return f"{_digits(maximum)} or less"
    return _digits(minimum) if minimum == maximum else f"{_digits(minimum)}..{_digits(maximum)}"


def _digits(bound: float | date) -> str:
    if isinstance(bound, date):
        return bound.strftime("%Y-%m-%d")  # of a pandas Timestamp, too
    return f"{bound:,.10g}" if isinstance(bound, float) else f"{bound:,}"


def _share(some: Frame | pd.Series, frame: Frame, schema: CustomerSchema) -> str:
    """Return the number of rows and, if the frame has them, the ids of the first ones."""
    share = f"{len(some):,} of {len(frame):,} rows"
    if schema.id not in frame:
        return share
    ids = frame[schema.id].loc[some.index[:MAX_EXAMPLES]]
    more = ", ..." if len(some) > MAX_EXAMPLES else ""
    return f"{share} ({schema.id} {', '.join(map(str, ids))}{more})"


def _result(key: dg.AssetKey, rule: Rule, frame: Frame) -> dg.AssetCheckResult:
    violations = rule.violations(frame)
    found = "; ".join(violations) or f"as expected in {len(frame):,} rows"
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=rule.name,
        passed=not violations,
        severity=dg.AssetCheckSeverity.ERROR if rule.blocking else dg.AssetCheckSeverity.WARN,
        description=f"Found: {found}. Expected: {rule.expected}.",
        metadata={
            "rows": len(frame),
            "violations": len(violations),
            "found": found,
            "expected": rule.expected,
        },
    )
