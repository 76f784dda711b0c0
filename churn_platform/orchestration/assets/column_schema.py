"""Column metadata of the preparation's tables, for the UI: type, unit, range, meaning and lineage."""

from collections.abc import Iterable, Sequence

import dagster as dg

from churn_platform.modeling.outcome_rows import WEIGHT
from churn_platform.modeling.splitting import SPLIT
from churn_platform.orchestration.assets.column_lineage import Sources, table_metadata
from churn_platform.schema.columns import Column, snake_case
from churn_platform.schema.customer_schema import CustomerSchema, Feature


def column_metadata(
    schema: CustomerSchema,
    names: Sequence[str],
    *,
    upstream: str = "",
    upstream_names: Iterable[str] = (),
    scaled: Iterable[str] = (),
    imputed: bool = False,
) -> dict[str, dg.TableSchema | dg.TableColumnLineage]:
    """Return the schema of a table with these columns, and its column lineage.

    Args:
        schema: the customer schema.
        names: raw columns, features or split, in the table's order.
        upstream: the asset that the table is made from; empty if it is not one of ours.
        upstream_names: columns of that asset.
        scaled: the columns that are min-max scaled.
        imputed: whether missing values are replaced.
    """
    scaled, available = set(scaled), set(upstream_names)
    features = {feature.name: feature for feature in schema.features}
    origins = {SPLIT: schema.target, WEIGHT: schema.id, **{name: feature.column for name, feature in features.items()}}
    sources: Sources = {}
    if upstream:
        sources = {name: [f"{upstream}.{name if name in available else origins[name]}"] for name in names}
    return table_metadata(
        (_table_column(schema, features.get(name), name, scaled=name in scaled, imputed=imputed) for name in names),
        sources,
    )


def _table_column(
    schema: CustomerSchema, feature: Feature | None, name: str, *, scaled: bool, imputed: bool
) -> dg.TableColumn:
    if name == SPLIT:
        return dg.TableColumn(name, "string", "train or test: only train rows are used for training.", _not_null())
    if name == WEIGHT:
        return dg.TableColumn(name, "float64", "Number of customers that the row stands for in training.", _not_null())
    if feature is not None and feature.transform in ("bands", "days_since", "one_hot"):
        return _made_column(schema.column(feature.column), feature)
    raw = schema.column(name)
    if scaled:
        description = f"{raw.description} Scaled: 0 is the minimum and 1 the maximum of the training split."
        return dg.TableColumn(name, "float64", description, _not_null())
    if name == schema.target and raw.kind != "flag":
        description = f"1 for a customer who left ({schema.left} in the file), else 0. {raw.description}"
        return dg.TableColumn(name, "int64", description, dg.TableColumnConstraints(nullable=raw.nullable))
    known = not raw.nullable or (imputed and raw.kind != "category")
    return dg.TableColumn(
        name,
        {"object": "string", "datetime64[s]": "date"}.get(raw.dtype, raw.dtype),
        f"{raw.description} Values: {raw.allowed}.",
        dg.TableColumnConstraints(nullable=not known, unique=raw.unique),
    )


def _made_column(raw: Column, feature: Feature) -> dg.TableColumn:
    """Return a feature that its column is not: a band, days or a category."""
    if feature.transform == "bands":
        bands = ", ".join(f"{code} {band.name}" for code, band in enumerate(raw.bands))
        title = snake_case(raw.name).replace("_", " ").capitalize()
        return dg.TableColumn(feature.name, "int8", f"{title} band: {bands}.", _not_null())
    if feature.transform == "days_since":
        return dg.TableColumn(feature.name, "int64", f"Days from {raw.since} to {raw.name}.", _not_null())
    return dg.TableColumn(feature.name, "int8", f"1 where {raw.name} is {feature.category}, else 0.", _not_null())


def _not_null() -> dg.TableColumnConstraints:
    return dg.TableColumnConstraints(nullable=False)
