"""The page of a day."""

from datetime import date
from html.parser import HTMLParser
from pathlib import Path

from churn_platform.watching import report
from churn_platform.watching.drift import FeatureReference, Reference

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
    "churn_rate": 0.2,
    "roc_auc": None,
    "expected_roc_auc": 0.86,
    "precision": float("nan"),
    "recall": 0.5,
    "brier": 0.1,
    "ece": 0.01,
    "window_days": 30,
}


def page(**changes: object) -> report.Page:
    """A page of one feature and one version."""
    parts = {"day": date(2026, 11, 26), "drift": [ROW], "live": [LIVE], "references": {3: REFERENCE}}
    return report.Page(**{**parts, "read_and_dead": (2_000, 20), **changes})  # type: ignore[arg-type]


class Links(HTMLParser):
    """What a page would load, and the tags that it leaves open."""

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


def test_the_page_says_what_shifted_and_how_and_loads_nothing() -> None:
    html = report.render(page())
    links = Links()
    links.feed(html)

    assert links.loaded == []
    assert links.open == []
    for text in ("2,000 events, of which 20", "1.00 %", "0.400", 'class="far"', "90.0 %", "12.50 %", "1,234", "0.8600"):
        assert text in html
    assert "nan" not in html.lower()


def test_what_is_not_ours_is_escaped() -> None:
    html = report.render(page())

    assert "<b>Mars" not in html
    assert "&lt;b&gt;Mars" in html


def test_a_day_without_anything_has_a_page_too() -> None:
    html = report.render(page(drift=[], live=[], read_and_dead=(0, 0)))

    assert "There was no prediction." in html
    assert "No outcome is known yet." in html


def test_pages_are_replaced_and_forgotten_by_day(tmp_path: Path) -> None:
    for day in (1, 2, 3, 3):
        report.save(page(day=date(2026, 1, day)), str(tmp_path))

    assert report.forget(str(tmp_path), before=date(2026, 1, 3)) == 2
    assert [each.name for each in (tmp_path / "reports").iterdir()] == ["2026-01-03"]
