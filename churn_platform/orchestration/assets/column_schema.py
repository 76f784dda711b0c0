"""Column metadata of the preparation's tables, for the UI: type, unit, range, meaning and lineage."""

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
    """Return the schema of a table with these columns, and its column lineage.

    Args:
        names: raw columns, binary columns, CreditScoreBins or split, in the table's order.
        upstream: the asset that the table is made from; empty if it is not one of ours.
        upstream_names: columns of that asset.
        scaled: the columns that are min-max scaled.
        imputed: whether missing values are replaced.
    """
    scaled, available = set(scaled), set(upstream_names)
    sources: Sources = {}
    if upstream:
        sources = {name: [f"{upstream}.{name if name in available else _origin(name)}"] for name in names}
    return table_metadata((_column(name, scaled=name in scaled, imputed=imputed) for name in names), sources)


def _origin(name: str) -> str:
    """Return the source of a new column: CreditScore of a band, a category of a binary column, Exited of the split.

    The split is random, but stratified by Exited.
    """
    return {BAND_COLUMN: "CreditScore", SPLIT: TARGET}.get(name) or name.split("_", maxsplit=1)[0]


def _column(name: str, *, scaled: bool, imputed: bool) -> dg.TableColumn:
    if name == SPLIT:
        return dg.TableColumn(name, "string", "train or test: only train rows are used for training.", _not_null())
    if name == BAND_COLUMN:
        return dg.TableColumn(name, "int8", f"Credit score band: {BANDS}.", _not_null())
    if name not in COLUMNS_BY_NAME:
        column, category = name.split("_", maxsplit=1)
        return dg.TableColumn(name, "int8", f"1 where {column} is {category}, else 0.", _not_null())
    raw = COLUMNS_BY_NAME[name]
    if scaled:
        description = f"{raw.description} Scaled: 0 is the minimum and 1 the maximum of the training split."
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
