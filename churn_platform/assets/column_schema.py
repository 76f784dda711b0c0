"""Column schemas of the batch side's tables, for the UI: type, unit, range and meaning of each column."""

from collections.abc import Iterable

import dagster as dg

from churn_platform.customers.schema import COLUMNS_BY_NAME
from churn_platform.features.binning import BAND_NAMES
from churn_platform.features.columns import BAND_COLUMN, CATEGORICAL_COLUMNS
from churn_platform.modeling.splitting import SPLIT

BANDS = ", ".join(f"{code} {name}" for code, name in enumerate(BAND_NAMES))


def column_schema(names: Iterable[str], *, scaled: Iterable[str] = (), imputed: bool = False) -> dg.TableSchema:
    """The schema of a table with these columns.

    Args:
        names: raw columns, binary columns, CreditScoreBins or split, in the table's order.
        scaled: those of them that are min-max scaled.
        imputed: whether gaps have been filled.
    """
    scaled = set(scaled)
    return dg.TableSchema(columns=[_column(name, scaled=name in scaled, imputed=imputed) for name in names])


def _column(name: str, *, scaled: bool, imputed: bool) -> dg.TableColumn:
    if name == SPLIT:
        return dg.TableColumn(name, "object", "train or test: which rows a model may learn from.", _not_null())
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
        raw.dtype,
        f"{raw.description} Values: {raw.allowed}.",
        dg.TableColumnConstraints(nullable=not known, unique=raw.unique),
    )


def _not_null() -> dg.TableColumnConstraints:
    return dg.TableColumnConstraints(nullable=False)
