"""Column lineage: as Dagster's metadata, and as links in each column's description, where the open-source UI shows it.

Dagster+ draws a graph of columns from the same metadata.
"""

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

Sources = Mapping[str, Sequence[str]]
"""Column -> its source columns, each as "asset.column"."""


def table_metadata(
    columns: Iterable[dg.TableColumn], sources: Sources
) -> dict[str, dg.TableSchema | dg.TableColumnLineage]:
    """Return the definition metadata of a table: its columns and their lineage.

    Args:
        columns: in the table's order; descriptions end with a full stop.
        sources: of the columns that come from another asset.
    """
    return {
        "dagster/column_schema": dg.TableSchema([_with_sources(each, sources.get(each.name, ())) for each in columns]),
        "dagster/column_lineage": dg.TableColumnLineage(
            {name: [_dependency(source) for source in found] for name, found in sources.items()}
        ),
    }


def _dependency(source: str) -> dg.TableColumnDep:
    asset, _, column = source.rpartition(".")
    return dg.TableColumnDep(asset_key=dg.AssetKey(asset), column_name=column)


def _with_sources(column: dg.TableColumn, sources: Sequence[str]) -> dg.TableColumn:
    """Return the column with links to its source assets in the description."""
    if not sources:
        return column
    links = []
    for source in sources:
        asset, _, name = source.rpartition(".")
        links.append(f"[{asset}](/assets/{asset}).{name}")
    return dg.TableColumn(
        column.name, column.type, f"{column.description} From {', '.join(links)}.", column.constraints, column.tags
    )
