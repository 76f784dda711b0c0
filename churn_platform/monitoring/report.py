"""The daily report: drift, rates, dead letters and live performance as one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from churn_platform.files.artifacts import REPORTS, delete_folder, join, list_names, write_bytes
from churn_platform.monitoring import verdicts
from churn_platform.monitoring.drift import Reference
from churn_platform.monitoring.live_performance import LivePerformance
from churn_platform.monitoring.verdicts import MAX_ECE, MIN_OUTCOMES, Verdict

FILE_NAME: Final = "index.html"


@dataclass(frozen=True)
class DailyReport:
    """The content of one day's report.

    Attributes:
        day: in UTC.
        drift: rows of drift_daily of this day.
        live: rows of live_performance of this day.
        references: references of the model versions in these rows.
        read_and_dead: events that the day's batches read, and how many of them are dead letters.
        auc_loss: the largest acceptable loss of ROC AUC (LIVE_AUC_LOSS).
    """

    day: date
    drift: Sequence[Mapping[str, Any]]
    live: Sequence[Mapping[str, Any]]
    references: Mapping[int, Reference]
    read_and_dead: tuple[int, int]
    auc_loss: float


def render(report: DailyReport) -> str:
    """Render the report as HTML. All values are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("churn_platform.monitoring", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    read, dead = report.read_and_dead
    return environment.get_template("report.html.j2").render(
        day=report.day.isoformat(),
        computed=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        read=read,
        dead=dead,
        dead_letters=verdicts.rate_verdict(dead / read if read else 0.0, verdicts.DEAD_LETTER_RATE),
        features=[
            _feature(row, report.references.get(int(row["model_version"]))) for row in _sorted_rows(report.drift)
        ],
        live=[{**row, **_live_verdicts(row, report.auc_loss)} for row in report.live],
    )


def save(report: DailyReport, artifacts: str) -> str:
    """Write the report below the artifacts root, replacing an earlier one of this day, and return its address."""
    uri = join(artifacts, REPORTS, report.day.isoformat(), FILE_NAME)
    write_bytes(uri, render(report).encode())
    return uri


def delete_before(artifacts: str, *, before: date) -> int:
    """Delete the reports of earlier days and return how many there were."""
    folder = join(artifacts, REPORTS)
    old = [name for name in list_names(folder) if name < before.isoformat()]
    for name in old:
        delete_folder(join(folder, name))
    return len(old)


def _sorted_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sort by model version, newest first, then by PSI, greatest first."""
    return sorted(rows, key=lambda row: (-row["model_version"], -(row["psi"] if _is_number(row["psi"]) else 0.0)))


def _feature(row: Mapping[str, Any], reference: Reference | None) -> dict[str, Any]:
    """Return a drift row with the percentage of each bin in training and now, and the verdicts on its rates."""
    bins: list[dict[str, Any]] = []
    if reference is not None:
        feature = reference.features[row["feature"]]
        training, now = sum(feature.counts), max(sum(row["counts"]), 1)
        bins = [
            {"label": label, "training": 100 * expected / training, "now": 100 * found / now}
            for label, expected, found in zip(feature.labels, feature.counts, row["counts"], strict=True)
            if expected or found
        ]
    missing_increase = (
        0.0 if reference is None else row["missing_rate"] - reference.features[row["feature"]].missing_rate
    )
    is_evaluated = row["verdict"] != Verdict.TOO_FEW
    return {
        **row,
        "predictions": round(row["sampled"] * row["weight"]),
        "bins": bins,
        "missing": verdicts.rate_verdict(missing_increase, verdicts.MISSING_RATE_INCREASE)
        if is_evaluated
        else Verdict.TOO_FEW,
        "out_of_range": (
            verdicts.rate_verdict(row["out_of_range_rate"], verdicts.OUT_OF_RANGE_RATE)
            if is_evaluated
            else Verdict.TOO_FEW
        ),
    }


def _live_verdicts(row: Mapping[str, Any], auc_loss: float) -> dict[str, str]:
    """Return the verdicts on a version's live performance, by the same rules as the checks."""
    found, expected = LivePerformance.of_row(row), row["expected_roc_auc"]
    if found.labelled < MIN_OUTCOMES:
        return {"roc_auc_verdict": Verdict.TOO_FEW, "ece_verdict": Verdict.TOO_FEW, "verdict": "too few outcomes"}
    is_worse = _is_number(expected) and found.is_worse_than(expected, by=auc_loss)
    is_miscalibrated = found.ece > MAX_ECE
    problems = [
        text for holds, text in ((is_worse, "worse than expected"), (is_miscalibrated, "miscalibrated")) if holds
    ]
    return {
        "roc_auc_verdict": Verdict.FAR if is_worse else Verdict.STABLE,
        "ece_verdict": Verdict.SHIFTED if is_miscalibrated else Verdict.STABLE,
        "verdict": ", ".join(problems) or ("as expected" if _is_number(expected) else "no expected ROC AUC"),
    }


def _is_number(value: object) -> bool:
    return isinstance(value, float) and value == value
