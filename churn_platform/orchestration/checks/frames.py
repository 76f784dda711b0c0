"""Checks of frames, from one factory: schema, nulls, ranges, categories, uniqueness, column order. All are blocking."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
import pandas as pd

from churn_platform.schema.columns import COLUMNS, CUSTOMER_ID

COUNTED = tuple(column.name for column in COLUMNS if column.counted)  # differs in copies of a row, too
MOST_NAMED = 5  # unknown categories in one message: a wrong column may hold thousands


@dataclass(frozen=True)
class Rule:
    """What a frame has to satisfy.

    Attributes:
        name: of the check, as the UI shows it.
        expected: the rule in words.
        violations: what a frame has instead, in words; one text for each thing that is wrong, none when all is well.
    """

    name: str
    expected: str
    violations: Callable[[pd.DataFrame], list[str]]


def schema_rule(dtypes: Mapping[str, str]) -> Rule:
    """Each of the columns is there, with its dtype; others may be there too."""

    def violations(frame: pd.DataFrame) -> list[str]:
        found = {str(name): str(dtype) for name, dtype in frame.dtypes.items()}
        return [
            f"{name} is {found.get(name, 'missing')}, not {dtype}"
            for name, dtype in dtypes.items()
            if found.get(name) != dtype
        ]

    return Rule("schema", ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items()), violations)


def nulls_rule(columns: Sequence[str]) -> Rule:
    """None of the columns has a null; a column that is not there is all null."""

    def violations(frame: pd.DataFrame) -> list[str]:
        nulls = frame.reindex(columns=list(columns)).isna()
        return [
            f"{name} is null in {_share(frame.loc[missing], frame) if name in frame else _share(frame, frame)}"
            for name, missing in nulls.items()
            if missing.any()
        ]

    return Rule("nulls", f"no null in {', '.join(columns)}", violations)


def ranges_rule(ranges: Mapping[str, tuple[float, float]]) -> Rule:
    """Every value lies in its column's range, both bounds included; a null is not judged here."""

    def violations(frame: pd.DataFrame) -> list[str]:
        wrong = [f"{name} is missing" for name in ranges if name not in frame]
        for name, (least, greatest) in ranges.items():
            values = frame[name] if name in frame else pd.Series(dtype="float64")
            outside = values[(values < least) | (values > greatest)]
            if len(outside):
                wrong.append(f"{name} is {_span(outside.min(), outside.max())} in {_share(outside, frame)}")
        return wrong

    expected = ", ".join(f"{name} {_span(least, greatest)}" for name, (least, greatest) in ranges.items())
    return Rule("ranges", expected, violations)


def categories_rule(categories: Mapping[str, Sequence[str]]) -> Rule:
    """Every value is one of its column's categories; a null is not judged here."""

    def violations(frame: pd.DataFrame) -> list[str]:
        wrong = [f"{name} is missing" for name in categories if name not in frame]
        for name, known in categories.items():
            values = frame[name].dropna() if name in frame else pd.Series(dtype="object")
            unknown = values[~values.isin(list(known))]
            if len(unknown):
                texts = sorted(map(str, unknown.unique()))
                # So many are no list of categories, but another column's texts: perhaps names of customers.
                kinds = (
                    ", ".join(map(repr, texts))
                    if len(texts) <= MOST_NAMED
                    else f"one of {len(texts):,} other texts (not shown, because they may be names)"
                )
                wrong.append(f"{name} is {kinds} in {_share(unknown, frame)}")
        return wrong

    expected = "; ".join(f"{name} {' or '.join(known)}" for name, known in categories.items())
    return Rule("categories", expected, violations)


def unique_rule(name: str) -> Rule:
    """No two rows have the same value in this column, whether they are copies of each other or differ elsewhere."""

    def violations(frame: pd.DataFrame) -> list[str]:
        if name not in frame:
            return [f"{name} is missing"]
        repeated = frame[frame[name].duplicated(keep=False)]
        if repeated.empty:
            return []
        distinct = repeated.drop_duplicates(subset=[column for column in frame if column not in COUNTED])[name]
        differs = repeated[name].isin(distinct[distinct.duplicated()])
        return [
            f"{rows.nunique():,} values of {name} are in {len(rows):,} of {len(frame):,} rows, {what}: "
            f"{', '.join(map(str, rows.unique()[:MOST_NAMED]))}"
            for rows, what in (
                (repeated.loc[~differs, name], "equal ones (remove the copies)"),
                (repeated.loc[differs, name], "different ones (keep the row that is right)"),
            )
            if len(rows)
        ]

    return Rule("unique", f"every {name} in one row only", violations)


def column_order_rule(columns: Sequence[str]) -> Rule:
    """The columns are these, in this order, and no others."""

    def violations(frame: pd.DataFrame) -> list[str]:
        found = [str(name) for name in frame.columns]
        return [] if found == list(columns) else [f"the columns are {', '.join(found)}"]

    return Rule("column_order", ", ".join(columns), violations)


def frame_checks(asset: dg.AssetsDefinition, rules: Sequence[Rule]) -> dg.AssetChecksDefinition:
    """Blocking checks of an asset whose value is a frame; it is loaded once for all of them."""
    key = asset.key
    specs = [
        dg.AssetCheckSpec(rule.name, asset=key, blocking=True, description=f"Expected: {rule.expected}.")
        for rule in rules
    ]

    @dg.multi_asset_check(
        name=f"{key.to_python_identifier()}_checks", specs=specs, ins={"frame": dg.AssetIn(key)}, compute_kind="pandas"
    )
    def checks(frame: pd.DataFrame) -> Iterator[dg.AssetCheckResult]:
        for rule in rules:
            yield _result(key, rule, frame)

    return checks


def _span(least: float, greatest: float) -> str:
    if math.isinf(greatest) and not math.isinf(least):
        return f"{_digits(least)} or more"
    return _digits(least) if least == greatest else f"{_digits(least)}..{_digits(greatest)}"


def _digits(number: float) -> str:
    return f"{number:,.10g}" if isinstance(number, float) else f"{number:,}"


def _share(some: pd.DataFrame | pd.Series, frame: pd.DataFrame) -> str:
    """How many rows of the frame these are, and which customers the first of them are of, where the frame says."""
    share = f"{len(some):,} of {len(frame):,} rows"
    if CUSTOMER_ID not in frame:
        return share
    ids = frame[CUSTOMER_ID].loc[some.index[:MOST_NAMED]]
    more = ", ..." if len(some) > MOST_NAMED else ""
    return f"{share} ({CUSTOMER_ID} {', '.join(map(str, ids))}{more})"


def _result(key: dg.AssetKey, rule: Rule, frame: pd.DataFrame) -> dg.AssetCheckResult:
    violations = rule.violations(frame)
    seen = "; ".join(violations) or f"as expected in {len(frame):,} rows"
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=rule.name,
        passed=not violations,
        description=f"Found: {seen}. Expected: {rule.expected}.",
        metadata={
            "rows": len(frame),
            "violations": len(violations),
            "seen": seen,
            "expected": rule.expected,
        },
    )
