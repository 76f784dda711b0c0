"""Whether a model version is still good, from its live performance and the drift of its customers. Pure.

The rules are those of the asset checks: `monitoring/verdicts.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from churn_platform.dashboard.formats import day, label, number, percent
from churn_platform.database.pages.model import FeatureDrift, LiveDay
from churn_platform.monitoring.verdicts import MAX_ECE, MIN_OUTCOMES, NO_REFERENCE, Verdict, is_auc_worse

MOST_NAMED: Final = 4
"""Features that a sentence names."""


class State(StrEnum):
    """How good something is."""

    GOOD = "good"
    WATCH = "watch"
    BAD = "bad"
    UNKNOWN = "not known"


@dataclass(frozen=True)
class Finding:
    """One aspect of the model.

    Attributes:
        name: of the aspect.
        state: how good it is.
        summary: a part of a sentence.
        evidence: the numbers behind it, as sentences.
    """

    name: str
    state: State
    summary: str
    evidence: str


@dataclass(frozen=True)
class Health:
    """The answer to "Is the model still good?".

    Attributes:
        state: how good it is.
        answer: in one or a few words.
        text: as a sentence.
        findings: ranking, calibration and drift.
    """

    state: State
    answer: str
    text: str
    findings: Sequence[Finding]


def assess(
    version: int, live: LiveDay | None, drift: Sequence[FeatureDrift], *, auc_loss: float, names: dict[str, str]
) -> Health:
    """Return whether a version is still good.

    Args:
        version: of the model.
        live: its latest live performance; None if no outcome of its predictions is known.
        drift: of each feature on its latest day; empty if none was measured.
        auc_loss: the largest acceptable loss of ROC AUC against the expected one.
        names: feature -> its name for people.
    """
    findings = [_ranking(live, auc_loss), _calibration(live), _drift(drift, names)]
    problems = [each for each in findings if each.state in (State.BAD, State.WATCH)]
    facts = ", ".join(each.summary for each in findings if each.state is State.GOOD)
    missing = [each.summary for each in findings if each.state is State.UNKNOWN]
    if problems:
        state = State.BAD if any(each.state is State.BAD for each in problems) else State.WATCH
        answer = "No" if state is State.BAD else "Not quite"
        text = f"Version {version}: {', and '.join(each.summary for each in problems)}."
    elif findings[0].state is State.GOOD:
        state, answer, text = State.GOOD, "Yes", f"Version {version}: {facts}."
    elif facts:
        state, answer, text = State.UNKNOWN, "So far as is known, yes", f"Version {version}: {facts}."
    else:
        state, answer, text = State.UNKNOWN, "Not known yet", ""
    if missing:
        text = f"{text} Not known: {'; '.join(missing)}.".strip()
    return Health(state, answer, text, findings)


def _ranking(live: LiveDay | None, auc_loss: float) -> Finding:
    name = "Ranking"
    if live is None or live.labelled < MIN_OUTCOMES or live.roc_auc is None or live.roc_auc_error is None:
        return Finding(name, State.UNKNOWN, "how well it ranks customers now", _too_few_outcomes(live))
    found = (
        f"The live ROC AUC is {number(live.roc_auc, 3)} \u00b1 {number(live.roc_auc_error, 3)} (standard error) over "
        f"{number(live.labelled)} predictions with a known outcome, of the {live.window_days} days to {day(live.date)}."
    )
    expected = live.expected_roc_auc
    if expected is None:
        return Finding(
            name, State.UNKNOWN, "what ranking to expect of it", f"{found} No value was measured in training."
        )
    evidence = (
        f"{found} In training it was {number(expected, 3)}; it counts as worse if it is at least {auc_loss:g} lower, "
        f"and chance does not explain it."
    )
    if is_auc_worse(live.roc_auc, live.roc_auc_error, expected=expected, by=auc_loss):
        return Finding(name, State.BAD, "it ranks customers worse than in training", evidence)
    return Finding(name, State.GOOD, "it ranks customers about as well as in training", evidence)


def _calibration(live: LiveDay | None) -> Finding:
    name = "Calibration"
    if live is None or live.labelled < MIN_OUTCOMES:
        return Finding(name, State.UNKNOWN, "whether its scores match the churn rate", _too_few_outcomes(live))
    evidence = (
        f"The mean score was {percent(live.mean_score)}, and {percent(live.churn_rate)} of the customers left. The "
        f"calibration error is {number(live.ece, 3)}; it counts as large above {MAX_ECE:g}."
    )
    if live.ece <= MAX_ECE:
        return Finding(name, State.GOOD, "its scores match the churn rate", evidence)
    direction = "too high" if live.mean_score > live.churn_rate else "too low"
    return Finding(name, State.WATCH, f"its scores are {direction}", evidence)


def _drift(drift: Sequence[FeatureDrift], names: dict[str, str]) -> Finding:
    name = "Drift"
    known = [each for each in drift if each.verdict not in (Verdict.TOO_FEW, NO_REFERENCE)]
    if not known:
        evidence = (
            "No drift was measured: drift_daily has no day of this version."
            if not drift
            else "The training data of this version was not recorded."
            if drift[0].verdict == NO_REFERENCE
            else f"There were too few predictions on {day(drift[0].date)}."
        )
        return Finding(name, State.UNKNOWN, "whether its customers differ from those it was trained on", evidence)
    for verdict, state, verb in (
        (Verdict.FAR, State.BAD, "are far from the training data in"),
        (Verdict.SHIFTED, State.WATCH, "have shifted from the training data in"),
    ):
        found = [each for each in known if each.verdict == verdict]
        if found:
            named = ", ".join(names.get(each.feature, label(each.feature)) for each in found[:MOST_NAMED])
            more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            evidence = (
                f"{number(len(found))} of {number(len(known))} distributions on {day(found[0].date)}; the largest "
                f"distance has a PSI of {number(found[0].psi, 2)}."
            )
            return Finding(name, state, f"its customers {verb} {named}{more}", evidence)
    evidence = (
        f"The largest distance on {day(known[0].date)} has a PSI of {number(known[0].psi, 3)}, that of "
        f"{names.get(known[0].feature, label(known[0].feature))}."
    )
    return Finding(name, State.GOOD, "its customers are like those it was trained on", evidence)


def _too_few_outcomes(live: LiveDay | None) -> str:
    if live is None:
        return "No outcome of its predictions is known. Send outcomes to the outcomes topic."
    return (
        f"{number(live.labelled)} outcomes are known, and at least {MIN_OUTCOMES} are needed."
        if live.labelled < MIN_OUTCOMES
        else "All customers with a known outcome left, or all stayed."
    )
