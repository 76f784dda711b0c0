"""What materializations show in the UI: previews of rows, charts, and the next asset to look at."""

import math
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from churn_platform.orchestration.assets import charts
from churn_platform.settings import settings

if TYPE_CHECKING:  # the code server and the streaming run start without pandas
    import pandas as pd

    from churn_platform.files.stored_frame import Frame
    from churn_platform.schema.customer_schema import CustomerSchema

MAX_CATEGORIES = 20  # bars of a chart: a column that takes any text may have thousands of values
CHART_THREADS = 2  # NumPy counts outside Python's lock
MAX_CHARTS = 12  # of one materialization: the event log keeps them all
DIGITS = 4  # significant digits of a number: 0.7312 and 1.05e-06 are both readable

Metadata = dict[str, dg.MetadataValue | int | float | str]


def significant(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers rounded for the UI, such as scores, which get DIGITS significant digits."""
    return {name: _rounded(number) for name, number in numbers.items()}


def chart_metadata(chart: charts.Chart, alt: str) -> dg.MarkdownMetadataValue:
    """Return a chart as metadata, which the UI shows as an image.

    Args:
        chart: the chart.
        alt: alternative text.
    """
    return dg.MetadataValue.md(charts.markdown(chart, alt))


def distributions(frame: "Frame", *columns: str) -> Metadata:
    """Return one chart per column: a histogram of numbers or years, a bar for each of the most frequent texts.

    Of a stored frame, no more than CHART_THREADS columns are in memory at the same time.
    """
    names = columns[:MAX_CHARTS]
    with ThreadPoolExecutor(CHART_THREADS) as pool:
        found = pool.map(lambda name: _distribution(frame[name]), names)
    return {
        f"distribution_{name}": chart_metadata(chart, f"Distribution of {name}")
        for name, chart in zip(names, found, strict=True)
    }


def _distribution(values: "pd.Series") -> charts.Chart:
    if values.dtype.name in ("object", "category"):
        counts = values.value_counts().head(MAX_CATEGORIES)
        return charts.categories({str(text): int(count) for text, count in sorted(counts.items()) if count})
    return charts.histogram((values.dt.year if values.dtype.kind == "M" else values).to_numpy())


def private_columns(schema: "CustomerSchema") -> list[str]:
    """Return the free texts, such as names: they must not be stored in an event log."""
    return [column.name for column in schema.columns if column.kind == "text" and column.name != schema.id]


def null_counts(frame: "Frame", schema: "CustomerSchema") -> dict[str, int]:
    """Return the number of missing values of each column that may have some and that something reads."""
    return {
        f"null_{column.column}": int(frame[column.name].isna().sum())
        for column in schema.stored
        if column.nullable and column.name in frame
    }


def preview(frame: "Frame", *, without: Collection[str] = ()) -> Metadata:
    """Return the first PREVIEW_ROWS rows of a frame, without some columns; nothing if PREVIEW_ROWS is 0."""
    rows = frame.head(settings().dagster.preview_rows).drop(columns=[name for name in without if name in frame])
    dates = {str(name): rows[name].dt.strftime("%Y-%m-%d") for name in rows.select_dtypes("datetime")}
    rows = rows.assign(**dates)
    return rows_table("preview", [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")])


def rows_table(name: str, rows: Iterable[Mapping[str, object]]) -> Metadata:
    """Return the rows as a table with this name; nothing if there are none."""
    records = [{column: _cell(value) for column, value in row.items()} for row in rows]
    if not records:
        return {}
    columns = [dg.TableColumn(column, _kind(value)) for column, value in records[0].items()]
    table = dg.MetadataValue.table([dg.TableRecord(each) for each in records], dg.TableSchema(columns))
    return {name: table}


def next_asset(asset: str) -> Metadata:
    """Return a link to the asset to look at after this one."""
    return {"next": dg.MetadataValue.asset(dg.AssetKey(asset))}


def _cell(value: Any) -> str | int | float | bool | None:  # whatever a frame or a row of PostgreSQL holds
    """Return a value as a table shows it: a missing value is empty, a number has DIGITS significant digits."""
    if hasattr(value, "item"):  # NumPy's scalars
        value = value.item()
    if isinstance(value, float):
        return None if value != value else _rounded(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S.%f}"[:-3]
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _rounded(number: float) -> float:
    """Return the number with DIGITS significant digits, and never fewer than two decimals: amounts keep their cents."""
    if number == 0 or not math.isfinite(number):
        return number
    return round(number, max(2, DIGITS - 1 - math.floor(math.log10(abs(number)))))


def _kind(value: object) -> str:
    return {bool: "bool", int: "int", float: "float"}.get(type(value), "string")
