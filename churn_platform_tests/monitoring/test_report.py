"""The daily report."""

import re
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from churn_platform.monitoring import report
from churn_platform.monitoring.drift import FeatureReference, Reference

REFERENCE = Reference({"Geography": FeatureReference((50, 50, 0, 0), categories=("<b>Mars</b>", "Spain"))})
ROW = {
    "model_version": 3,
    "feature": "Geography",
    "psi": 0.4,
    "verdict": "far",
    "missing_rate": 0.0,
    "out_of_range_rate": 0.125,
    "sampled": 1_000,
    "weight": 2.0,
    "counts": [100, 900, 0, 0],
}
LIVE = {
    "model_version": 3,
    "labelled": 1_234,
    "churned": 250,
    "churn_rate": 0.2,
    "mean_score": 0.2,
    "roc_auc": None,
    "roc_auc_error": None,
    "expected_roc_auc": 0.86,
    "precision": float("nan"),
    "recall": 0.5,
    "brier": 0.1,
    "ece": 0.01,
    "window_days": 30,
}


def daily_report(**changes: Any) -> report.DailyReport:  # fields of any type
    """Return a report of one feature and one model version."""
    one = report.DailyReport(
        day=date(2026, 11, 26),
        drift=[ROW],
        live=[LIVE],
        references={3: REFERENCE},
        read_and_dead=(2_000, 20),
        auc_loss=0.05,
    )
    return replace(one, **changes)


class Links(HTMLParser):
    """Collects the addresses that a page would load, and its unclosed tags."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_shows_what_shifted_and_loads_nothing() -> None:
    html = report.render(daily_report())
    links = Links()
    links.feed(html)

    assert links.loaded == []
    assert links.open == []
    for text in ("2,000 events; 20 of them", "1.00 %", "0.400", 'class="far"', "90.0 %", "12.50 %", "1,234", "0.8600"):
        assert text in html
    assert "nan" not in html.lower()


def cell(html: str, text: str) -> str:
    """Return the class of the cell or span that starts with this text; empty if it has none."""
    found = re.search(rf'<(?:td|span)(?: class="([^"]*)")?>{re.escape(text)}', html)
    assert found is not None, text
    return found[1] or ""


@pytest.mark.parametrize(
    ("live", "roc_auc", "ece", "verdict"),
    [
        (
            {"roc_auc": 0.75, "roc_auc_error": 0.015, "ece": 0.0712},
            "far",
            "shifted",
            "worse than expected, miscalibrated",
        ),
        ({"roc_auc": 0.75, "roc_auc_error": 0.015}, "far", "stable", "worse than expected"),
        ({"roc_auc": 0.75, "roc_auc_error": 0.08}, "stable", "stable", "as expected"),  # chance explains it
        ({"roc_auc": 0.86, "roc_auc_error": 0.015}, "stable", "stable", "as expected"),
        ({"roc_auc": 0.75, "roc_auc_error": 0.015, "labelled": 199}, "too few", "too few", "too few outcomes"),
        (
            {"roc_auc": 0.75, "roc_auc_error": 0.015, "expected_roc_auc": float("nan")},
            "stable",
            "stable",
            "no expected ROC AUC",
        ),
    ],
)
def test_a_live_performance_that_fails_its_check_is_highlighted(
    live: dict[str, float], roc_auc: str, ece: str, verdict: str
) -> None:
    row = {**LIVE, "expected_roc_auc": 0.8715, "ece": 0.0123, **live}

    html = report.render(daily_report(live=[row]))

    assert cell(html, f"{row['roc_auc']:.4f}") == roc_auc
    assert cell(html, f"{row['ece']:.4f}") == ece
    assert f">{verdict}</td>" in html


@pytest.mark.parametrize(
    ("dead", "missing", "out_of_range", "classes"),
    [
        (20, 0.01, 0.001, ["stable", "stable", "stable"]),
        (60, 0.08, 0.0201, ["shifted", "shifted", "shifted"]),
        (300, 0.33, 0.0707, ["far", "far", "far"]),
    ],
)
def test_rates_that_fail_their_checks_are_highlighted(
    dead: int, missing: float, out_of_range: float, classes: list[str]
) -> None:
    row = {**ROW, "missing_rate": missing, "out_of_range_rate": out_of_range}

    html = report.render(daily_report(drift=[row], read_and_dead=(2_000, dead)))

    texts = (f"{100 * dead / 2_000:.2f} %", f"{100 * missing:.2f} %", f"{100 * out_of_range:.2f} %")
    assert [cell(html, text) for text in texts] == classes


def test_values_are_escaped() -> None:
    html = report.render(daily_report())

    assert "<b>Mars" not in html
    assert "&lt;b&gt;Mars" in html


def test_a_day_without_data_has_a_report() -> None:
    html = report.render(daily_report(drift=[], live=[], read_and_dead=(0, 0)))

    assert "There were no predictions." in html
    assert "No outcome is known yet." in html


def test_reports_are_replaced_and_deleted_by_day(tmp_path: Path) -> None:
    for day in (1, 2, 3, 3):
        report.save(daily_report(day=date(2026, 1, day)), str(tmp_path))

    assert report.delete_before(str(tmp_path), before=date(2026, 1, 3)) == 2
    assert [each.name for each in (tmp_path / "reports").iterdir()] == ["2026-01-03"]
