"""The page of a day: drift, rates, dead letters and live performance in one HTML file that loads nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from churn_platform.files.artifacts import REPORTS, delete_folder, join, names, write_bytes
from churn_platform.monitoring import evaluation
from churn_platform.monitoring.drift import Reference, Verdict
from churn_platform.monitoring.live_performance import LEAST_LABELLED, MOST_ECE, LivePerformance

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
        auc_loss: so much less ROC AUC than expected is too little.
    """

    day: date
    drift: Sequence[Mapping[str, Any]]
    live: Sequence[Mapping[str, Any]]
    references: Mapping[int, Reference]
    read_and_dead: tuple[int, int]
    auc_loss: float


def render(page: Page) -> str:
    """The page as HTML, what is not ours escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("churn_platform.monitoring", "."),
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
        dead_letters=evaluation.level(dead / read if read else 0.0, evaluation.DEAD_LETTERS),
        features=[_feature(row, page.references.get(int(row["model_version"]))) for row in _in_order(page.drift)],
        live=[{**row, **_live_verdicts(row, page.auc_loss)} for row in page.live],
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
    missing_more = 0.0 if reference is None else row["missing_rate"] - reference.features[row["feature"]].missing_rate
    is_judged = row["verdict"] != Verdict.TOO_FEW
    return {
        **row,
        "predictions": round(row["sampled"] * row["weight"]),
        "bins": bins,
        "missing": evaluation.level(missing_more, evaluation.MISSING_MORE) if is_judged else Verdict.TOO_FEW,
        "out_of_range": (
            evaluation.level(row["out_of_range_rate"], evaluation.OUT_OF_RANGE) if is_judged else Verdict.TOO_FEW
        ),
    }


def _live_verdicts(row: Mapping[str, Any], auc_loss: float) -> dict[str, str]:
    """What the page says of a version's live performance, by the same rules as the checks."""
    found, expected = LivePerformance.of_row(row), row["expected_roc_auc"]
    if found.labelled < LEAST_LABELLED:
        return {"roc_auc_verdict": Verdict.TOO_FEW, "ece_verdict": Verdict.TOO_FEW, "verdict": "too few outcomes"}
    is_worse = _is_number(expected) and found.is_worse_than(expected, by=auc_loss)
    is_off = found.ece > MOST_ECE
    said = [text for holds, text in ((is_worse, "worse than expected"), (is_off, "scores are off")) if holds]
    return {
        "roc_auc_verdict": Verdict.FAR if is_worse else Verdict.STABLE,
        "ece_verdict": Verdict.SHIFTED if is_off else Verdict.STABLE,
        "verdict": ", ".join(said) or ("as expected" if _is_number(expected) else "nothing was expected"),
    }


def _is_number(value: object) -> bool:
    return isinstance(value, float) and value == value
