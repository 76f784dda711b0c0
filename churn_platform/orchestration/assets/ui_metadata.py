"""What materializations show in the UI: previews of rows, charts, and the next thing to look at."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from churn_platform.orchestration.assets import charts
from churn_platform.settings import settings

if TYPE_CHECKING:  # the code server and the streaming run need no pandas to start
    import pandas as pd

PRIVATE = ("Firstname", "Lastname")  # who a customer is does not belong in an event log
DECIMALS = 4  # of a number in a table

Shown = dict[str, dg.MetadataValue | int | float | str]


def picture(chart: charts.Chart, alt: str) -> dg.MarkdownMetadataValue:
    """A chart, shown in its place.

    Args:
        alt: what the picture shows, for who cannot see it.
    """
    return dg.MetadataValue.md(charts.markdown(chart, alt))


def distributions(frame: "pd.DataFrame", *columns: str) -> Shown:
    """One picture of each of these columns: a histogram of numbers, a bar for each of a few texts."""
    shown: Shown = {}
    for name in columns:
        values = frame[name]
        if values.dtype == object:
            chart = charts.categories({str(k): int(v) for k, v in values.value_counts().sort_index().items()})
        else:
            chart = charts.histogram(values.to_numpy())
        shown[f"distribution_{name}"] = picture(chart, f"Distribution of {name}")
    return shown


def preview(frame: "pd.DataFrame") -> Shown:
    """The first PREVIEW_ROWS rows of a frame, without names of customers; nothing when that is 0."""
    rows = frame.head(settings().dagster.preview_rows).drop(columns=[name for name in PRIVATE if name in frame])
    return rows_table("preview", [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")])


def rows_table(name: str, rows: Iterable[Mapping[str, object]]) -> Shown:
    """Rows as a table, by this name; nothing when there are none."""
    records = [{column: _cell(value) for column, value in row.items()} for row in rows]
    if not records:
        return {}
    columns = [dg.TableColumn(column, _kind(value)) for column, value in records[0].items()]
    table = dg.MetadataValue.table([dg.TableRecord(each) for each in records], dg.TableSchema(columns))
    return {name: table}


def next_asset(asset: str) -> Shown:
    """A link to the asset that is worth a look after this one."""
    return {"next": dg.MetadataValue.asset(dg.AssetKey(asset))}


def _cell(value: Any) -> str | int | float | bool | None:
    """A value as a cell of a table shows it: a gap is empty, a number has four decimals at most."""
    if hasattr(value, "item"):  # of numpy
        value = value.item()
    if isinstance(value, float):
        return None if value != value else round(value, DECIMALS)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S.%f}"[:-3]
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _kind(value: object) -> str:
    return {bool: "bool", int: "int", float: "float"}.get(type(value), "string")
