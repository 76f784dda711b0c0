"""The comparison of a shadow as text and rows, for the command, Dagster and the dashboard.

It reads the stored form of a comparison, and imports none of the large libraries, because the dashboard stays small.
"""

from collections.abc import Mapping
from typing import Any, Final

QUANTILE_NAMES: Final = ("5 % quantile", "25 % quantile", "median", "75 % quantile", "95 % quantile")
METRICS: Final = {"roc_auc": "ROC AUC", "brier": "Brier score", "log_loss": "log loss"}


def figures(found: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return the figures of both models: name, of the challenger, of the champion.

    Args:
        found: what ShadowComparison.as_dict() returns.
    """
    challenger, champion = found["challenger"], found["champion"]
    rows = [("mean risk score", challenger["mean"], champion["mean"])]
    rows += zip(QUANTILE_NAMES, challenger["quantiles"], champion["quantiles"], strict=True)
    rows.append(("share at high risk", challenger["high_risk"], champion["high_risk"]))
    labelled = found["labelled"]
    if labelled is not None:
        measured = ((title, labelled[name]) for name, title in METRICS.items())
        rows += [(title, each["challenger"], each["champion"]) for title, each in measured if each is not None]
    return rows


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what a comparison says, as sentences.

    Args:
        found: what ShadowComparison.as_dict() returns.
    """
    agreement, labelled = found["agreement"], found["labelled"]
    text = [
        f"{found['events']:,} events of {found['customers']:,} customers were scored by both. The distributions of the "
        f"scores differ by PSI {found['psi']:.3f} and KS {found['ks']:.3f}.",
        f"At high risk (risk score from {found['threshold']:g}), by the latest event of each customer: "
        f"{agreement['both']:,} for both, {agreement['only_challenger']:,} for version {found['model_version']} only, "
        f"{agreement['only_champion']:,} for the champion only, {agreement['neither']:,} for neither.",
    ]
    if labelled is None:
        return [*text, "Their performance cannot be compared yet: fewer than two outcomes are known."]
    text.append(f"The outcome of {labelled['events']:,} events is known; {labelled['left']:,} of their customers left.")
    for name, title in METRICS.items():
        if labelled[name] is not None:
            difference = labelled[name]["difference"]
            text.append(
                f"{title}: version {found['model_version']} minus champion is {difference['value']:+.4f} "
                f"(95 % confidence interval {difference['low']:+.4f} to {difference['high']:+.4f})."
            )
    return text
