"""Metadata of materializations: charts that the UI shows inline, tables of rows, and no customer names."""

import base64
import re
import weakref
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_platform.database.batch_rows import RISK_BINS, BatchRows
from churn_platform.database.stream_batches import Batch
from churn_platform.files.artifacts import write_bytes
from churn_platform.files.parquet import to_parquet
from churn_platform.files.stored_frame import StoredFrame
from churn_platform.orchestration.assets import charts
from churn_platform.orchestration.assets.batches import side_tables
from churn_platform.orchestration.assets.svg import LINE_COLOUR
from churn_platform.orchestration.assets.ui_metadata import (
    CHART_THREADS,
    MAX_CHARTS,
    distributions,
    preview,
    private_columns,
    rows_table,
)
from churn_platform.schema.generator import generate_customers
from churn_platform.settings import settings
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers

SHOWN_INLINE = 1_000  # characters of Markdown; the UI shows longer ones behind a link

counts = st.lists(st.integers(0, 10**9), max_size=24)


def svg_of(markdown: str) -> ET.Element:
    found = re.fullmatch(r"!\[[^\]]*\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found is not None, markdown
    return ET.fromstring(base64.b64decode(found[1]))  # noqa: S314  we wrote it


def bars_of(markdown: str) -> list[tuple[str, str]]:
    """Colour and outline of the bars, from left to right."""
    return [
        (path.attrib["fill"], path.attrib["d"])
        for path in svg_of(markdown).iter("{http://www.w3.org/2000/svg}path")
        if "fill" in path.attrib
    ]


def test_categories_have_the_chart_of_their_texts() -> None:
    texts = pd.DataFrame({"country": ["Spain", "France", None, "Spain"]})
    categories = texts.astype({"country": pd.CategoricalDtype(["Spain", "Italy", "France"])})

    assert distributions(categories, "country") == distributions(texts, "country")


@pytest.mark.slow
@given(counts=counts, labels=st.lists(st.text(max_size=200), max_size=24), marked=st.none() | st.integers(0, 24))
def test_every_chart_is_shown_inline(counts: list[int], labels: list[str], marked: int | None) -> None:
    printable = [re.sub(r"[^\x20-\ud7ff]", "", label) for label in labels]

    text = charts.markdown(charts.Chart(counts, printable, marked), "a picture")

    assert len(text) < SHOWN_INLINE
    assert svg_of(text).attrib["width"] == str(charts.WIDTH)


def test_bars_are_proportional_to_counts_and_rare_values_are_visible() -> None:
    ((_, outline),) = bars_of(charts.markdown(charts.Chart([10_000, 5_000, 0, 1], ["a", "b", "c", "d"]), ""))

    heights = [int(height) for height in re.findall(r"v-(\d+)", outline)]
    assert heights == [charts.HEIGHT, charts.HEIGHT // 2, 1]


def test_bars_from_a_threshold_on_have_the_second_colour() -> None:
    bars = bars_of(charts.markdown(charts.Chart([1, 1, 1], ["0", "1"], marked_from=2), ""))

    assert [colour for colour, _ in bars] == [LINE_COLOUR, charts.MARKED_COLOUR]
    assert bars[1][1].startswith(f"M{round(2 * charts.WIDTH / 3)} ")


def test_a_histogram_counts_every_known_value_once() -> None:
    values = np.array([18.0, 18.5, 92.0, np.nan, 40.0])

    chart = charts.histogram(values)

    assert sum(chart.counts) == 4
    assert chart.labels == ["18", "92"]


def test_whole_numbers_in_a_small_range_have_one_bar_each() -> None:
    chart = charts.histogram(np.array([3, 1, 1, 4]))

    assert (chart.counts, chart.labels) == ([2, 0, 1, 1], ["1", "2", "3", "4"])


@pytest.mark.parametrize("values", [np.array([]), np.array([np.nan, np.nan]), np.array([7.0])])
def test_a_histogram_of_few_or_no_values_is_a_chart(values: np.ndarray) -> None:
    assert svg_of(charts.markdown(charts.histogram(values), "")) is not None


def test_previews_do_not_show_names_of_customers() -> None:
    customers = generate_customers(20, seed=1)

    shown = {**preview(customers, without=private_columns(BANK)), **distributions(customers, "Age", "Geography")}

    table = shown["preview"]
    assert isinstance(table, dg.TableMetadataValue)
    assert len(table.records) == settings().dagster.preview_rows
    assert {"Firstname", "Lastname"} < set(customers.columns)
    assert not {"Firstname", "Lastname"} & table.records[0].data.keys()
    assert {"distribution_Age", "distribution_Geography"} < shown.keys()


def test_dates_and_long_lists_of_texts_are_shown() -> None:
    rows = any_customers(SUBSCRIBERS, 200, seed=5).assign(Plan=[f"plan {number}" for number in range(200)])

    shown = {**preview(rows), **distributions(rows, "SignupDate", "LastContact", "Plan")}

    table = shown["preview"]
    assert isinstance(table, dg.TableMetadataValue)
    assert table.records[0].data["SignupDate"] == "2010-01-01"
    assert {"distribution_SignupDate", "distribution_LastContact", "distribution_Plan"} < shown.keys()


def test_a_materialization_has_few_charts_however_many_columns_there_are() -> None:
    many = pd.DataFrame({f"column {number}": [1.0, 2.0] for number in range(60)})

    assert len(distributions(many, *many)) == MAX_CHARTS


class Watched(StoredFrame):
    """A stored frame that knows how many of its columns have been in memory at the same time, at most."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.most = 0
        self._read: list[weakref.ref[pd.Series]] = []

    def __getitem__(self, name: str) -> pd.Series:
        column = super().__getitem__(name)
        self._read.append(weakref.ref(column))
        self.most = max(self.most, sum(each() is not None for each in self._read))
        return column


def test_charts_of_a_stored_frame_are_made_of_few_columns_at_a_time(tmp_path: Path) -> None:
    uri = str(tmp_path / "customers.parquet")
    columns = {f"column {number}": np.arange(1_000.0) for number in range(MAX_CHARTS)}
    write_bytes(uri, to_parquet(pd.DataFrame(columns)))
    frame = Watched(uri)

    assert len(distributions(frame, *columns)) == MAX_CHARTS
    assert 0 < frame.most <= CHART_THREADS


def test_a_preview_of_no_rows_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREVIEW_ROWS", "0")
    settings.cache_clear()
    try:
        assert preview(generate_customers(20, seed=1)) == {}
    finally:
        monkeypatch.undo()
        settings.cache_clear()


def test_cells_are_human_readable() -> None:
    moment = datetime(2026, 11, 24, 9, 15, 30, 123456, UTC)
    row = {"n": np.int64(3), "x": 0.123456789, "missing": float("nan"), "none": None, "when": moment, "name": "a"}

    table = rows_table("rows", [row])["rows"]

    assert isinstance(table, dg.TableMetadataValue)
    assert table.records[0].data == {
        "n": 3,
        "x": 0.1235,
        "missing": None,
        "none": None,
        "when": "2026-11-24 09:15:30.123",
        "name": "a",
    }
    assert [column.type for column in table.schema.columns][:2] == ["int", "float"]


def test_other_dtypes_have_charts() -> None:
    frame = pd.DataFrame({"split": ["train", "test", "train"], "flag": np.array([0, 1, 1], dtype=np.int8)})

    assert distributions(frame, "split", "flag").keys() == {"distribution_split", "distribution_flag"}


def test_the_riskiest_customers_are_shown_with_their_reasons_as_text() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    batch = Batch(
        "20260101T000000000Z", now, now, now, now, now, now, "run", 1, None, 0.7, 2, 2, 0, 0, 0, 1, 0, None, None
    )
    reasons = [
        {"feature": "Age", "value": 58.0, "contribution": 1.31},
        {"feature": "NumOfProducts", "value": 1.0, "contribution": 0.4},
        {"feature": "Geography", "value": "Germany", "contribution": 0.3},
        {"feature": "Tenure", "value": 5.0, "contribution": -0.02},
    ]
    rows = BatchRows(
        risk_scores=[0] * RISK_BINS,
        models={1: 2},
        first=[],
        high_risk=2,
        customers_at_risk=1,
        riskiest=[{"customer_id": 1, "reasons": reasons}, {"customer_id": 2, "reasons": None}],
        reasons=[],
    )

    (shown,) = side_tables(batch, rows)

    table = shown.metadata["riskiest"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["reasons"] for record in table.records] == [
        "Age 58 raises the risk (+1.31); NumOfProducts 1 raises the risk (+0.40); "
        "Geography Germany raises the risk (+0.30)",
        "not yet known",
    ]
