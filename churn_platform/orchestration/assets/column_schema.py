"""Columns of the batch side's tables, for the UI: type, unit, range, meaning and origin of each."""

from collections.abc import Iterable, Sequence

import dagster as dg

from churn_platform.features.binning import BAND_NAMES
from churn_platform.features.columns import BAND_COLUMN, CATEGORICAL_COLUMNS, TARGET
from churn_platform.modeling.splitting import SPLIT
from churn_platform.orchestration.assets.column_lineage import Sources, table_metadata
from churn_platform.schema.columns import COLUMNS_BY_NAME

BANDS = ", ".join(f"{code} {name}" for code, name in enumerate(BAND_NAMES))


def column_metadata(
    names: Sequence[str],
    *,
    upstream: str = "",
    upstream_names: Iterable[str] = (),
    scaled: Iterable[str] = (),
    imputed: bool = False,
) -> dict[str, dg.TableSchema | dg.TableColumnLineage]:
    """The schema of a table with these columns, and its column lineage.

    Args:
        names: raw columns, binary columns, CreditScoreBins or split, in the table's order.
        upstream: the asset that the table is made of, if it is one of ours.
        upstream_names: columns of that asset.
        scaled: those of them that are min-max scaled.
        imputed: whether gaps have been filled.
    """
    scaled, there = set(scaled), set(upstream_names)
    sources: Sources = {}
    if upstream:
        sources = {name: [f"{upstream}.{name if name in there else _origin(name)}"] for name in names}
    return table_metadata((_column(name, scaled=name in scaled, imputed=imputed) for name in names), sources)


def _origin(name: str) -> str:
    """The column that a new column is made of: a band of CreditScore, a binary column of a category, a split of Exited.

    The split is stratified by Exited; which row goes where is drawn.
    """
    return {BAND_COLUMN: "CreditScore", SPLIT: TARGET}.get(name) or name.split("_", maxsplit=1)[0]


def _column(name: str, *, scaled: bool, imputed: bool) -> dg.TableColumn:
    if name == SPLIT:
        return dg.TableColumn(name, "string", "train or test: which rows a model may learn from.", _not_null())
    if name == BAND_COLUMN:
        return dg.TableColumn(name, "int8", f"Credit score band: {BANDS}.", _not_null())
    if name not in COLUMNS_BY_NAME:
        column, category = name.split("_", maxsplit=1)
        return dg.TableColumn(name, "int8", f"1 where {column} is {category}, else 0.", _not_null())
    raw = COLUMNS_BY_NAME[name]
    if scaled:
        description = f"{raw.description} Scaled: 0 is the training split's least, 1 its greatest value."
        return dg.TableColumn(name, "float64", description, _not_null())
    known = not raw.nullable or (imputed and name not in CATEGORICAL_COLUMNS)
    return dg.TableColumn(
        name,
        "string" if raw.dtype == "object" else raw.dtype,
        f"{raw.description} Values: {raw.allowed}.",
        dg.TableColumnConstraints(nullable=not known, unique=raw.unique),
    )


def _not_null() -> dg.TableColumnConstraints:
    return dg.TableColumnConstraints(nullable=False)
