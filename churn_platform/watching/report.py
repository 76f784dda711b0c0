"""The page of a day: drift, rates, dead letters and live performance in one HTML file that loads nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from churn_platform.storage.artifacts import REPORTS, delete_folder, join, names, write_bytes
from churn_platform.watching.drift import Reference

PAGE: Final = "index.html"


@dataclass(frozen=True)
class Page:
    """What is on it.

    Attributes:
        day: UTC.
        drift: rows of drift_daily of this day.
        live: rows of live_performance of this day.
        references: of the model versions among them.
        read_and_dead: events that the day's batches have read, and how many became dead letters.
    """

    day: date
    drift: Sequence[Mapping[str, Any]]
    live: Sequence[Mapping[str, Any]]
    references: Mapping[int, Reference]
    read_and_dead: tuple[int, int]


def render(page: Page) -> str:
    """The page as HTML, what is not ours escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("churn_platform.watching", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    read, dead = page.read_and_dead
    return environment.get_template("report.html.j2").render(
        day=page.day.isoformat(),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        read=read,
        dead=dead,
        features=[_feature(row, page.references.get(int(row["model_version"]))) for row in _in_order(page.drift)],
        live=page.live,
    )


def save(page: Page, artifacts: str) -> str:
    """Write the page below the artifacts root, in place of an earlier one of this day; its address."""
    uri = join(artifacts, REPORTS, page.day.isoformat(), PAGE)
    write_bytes(uri, render(page).encode())
    return uri


def forget(artifacts: str, *, before: date) -> int:
    """Delete the pages of days before this one; how many there were."""
    folder = join(artifacts, REPORTS)
    old = [name for name in names(folder) if name < before.isoformat()]
    for name in old:
        delete_folder(join(folder, name))
    return len(old)


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """By model version, the newest first; of each what is farthest off first."""
    return sorted(rows, key=lambda row: (-row["model_version"], -(row["psi"] if _is_number(row["psi"]) else 0.0)))


def _feature(row: Mapping[str, Any], reference: Reference | None) -> dict[str, Any]:
    """A row as the page shows it: with the share of each bin then and now, in per cent."""
    bins: list[dict[str, Any]] = []
    if reference is not None:
        feature = reference.features[row["feature"]]
        then, now = sum(feature.counts), max(sum(row["counts"]), 1)
        bins = [
            {"label": label, "then": 100 * expected / then, "now": 100 * found / now}
            for label, expected, found in zip(feature.labels, feature.counts, row["counts"], strict=True)
            if expected or found
        ]
    return {**row, "predictions": round(row["sampled"] * row["weight"]), "bins": bins}


def _is_number(value: object) -> bool:
    return isinstance(value, float) and value == value
