"""What the training assets hand on to each other: a trained version, and its comparison with the champion. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.evaluation import Evaluation
from churn_platform.modeling.exceptions import StaleComparisonError
from churn_platform.modeling.resampling import RESAMPLES, auc, bootstrapped_aucs
from churn_platform.modeling.slices import judgeable_slices
from churn_platform.modeling.threshold import CallCosts

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainedModel:
    """A registered version and where its bundle lies."""

    version: int
    run_id: str
    uri: str

    def to_json(self) -> str:
        """JSON of the attributes."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainedModel:
        """The model that `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Rule:
    """When a challenger replaces the champion.

    Attributes:
        confidence: how sure the gain has to be, 0.5..1: so many of the resamples show one.
        slice_loss: most ROC AUC that a slice of the customers may lose.
        costs: of a call, today; None where nobody has stated them.
    """

    confidence: float
    slice_loss: float
    costs: CallCosts | None = None


@dataclass(frozen=True)
class Gain:
    """ROC AUC of the challenger less that of the champion, on the same rows, none of which its model has seen.

    Attributes:
        auc: on all rows.
        low: what it is at least, with the confidence of the rule, by a paired bootstrap.
        high: what it is at most, with the same confidence.
        slices: the same difference for each slice that is large enough to tell.
    """

    auc: float
    low: float
    high: float
    slices: Mapping[str, float]


@dataclass(frozen=True)
class Worth:
    """What the decisions of both are worth at today's costs: profit per customer; without costs, F1.

    On the same rows as the gain, each model with its own threshold.
    """

    challenger: float
    champion: float


@dataclass(frozen=True)
class Comparison:
    """A challenger and the champion, judged on the same training rows, out of fold.

    Attributes:
        version: the challenger.
        rows: how many rows both were judged on.
        rule: when the challenger wins.
        candidate: its figures.
        champion_version: the champion at that time, None when there was none.
        champion: its figures.
        gain: of the challenger over the champion.
        worth: where the champion's threshold was chosen at other costs than today's, so that it has no advantage.
        run_id: MLflow run of the challenger. Version numbers start again with a new registry; runs do not.
        champion_run_id: that of the champion.
    """

    version: int
    rows: int
    rule: Rule
    candidate: Evaluation
    champion_version: int | None = None
    champion: Evaluation | None = None
    gain: Gain | None = None
    worth: Worth | None = None
    run_id: str = ""
    champion_run_id: str | None = None

    @property
    def objections(self) -> list[str]:
        """Why the challenger should not be champion, as text; empty where it should."""
        if self.gain is None:
            return []
        found = []
        if self.gain.low <= 0 and self.worth is None:
            found.append(
                f"the gain is no better than chance: at {self.rule.confidence:.0%} confidence it may be "
                f"{self.gain.low:+.4f}"
            )
        elif self.gain.high < 0:
            found.append(
                f"the loss is no chance: at {self.rule.confidence:.0%} confidence it is {-self.gain.high:.4f} or more"
            )
        elif self.gain.low <= 0 and self.worth is not None and self.worth.challenger <= self.worth.champion:
            found.append("neither its gain is better than chance nor are its decisions worth more at today's costs")
        found += [
            f"{name} loses {-gain:.4f} of ROC AUC, more than the {self.rule.slice_loss:g} allowed"
            for name, gain in sorted(self.gain.slices.items(), key=lambda each: each[1])
            if gain < -self.rule.slice_loss
        ]
        return found

    @property
    def candidate_wins(self) -> bool:
        """Whether the challenger should be champion: there is none, or nothing speaks against it."""
        return not self.objections

    @property
    def reason(self) -> str:
        """The decision in a sentence or two."""
        if self.champion is None or self.gain is None:
            return f"Version {self.version} is the first: there was no champion to compare it with."
        figures = (
            f"Version {self.version}'s ROC AUC is {self.candidate.roc_auc:.4f} out of fold, that of champion "
            f"{self.champion_version} {self.champion.roc_auc:.4f} on the same {self.rows:,} rows, a gain of "
            f"{self.gain.auc:+.4f} ({self.gain.low:+.4f} to {self.gain.high:+.4f})"
        )
        if self.worth is not None:
            figures += f". {self._worth_as_text(self.worth)}"
        if not self.candidate_wins:
            return f"{figures}: refused, because {'; '.join(self.objections)}."
        why = "better than chance" if self.gain.low > 0 else "worth more, and no worse in its order than by chance"
        return f"{figures}: {why}, and no slice loses more than {self.rule.slice_loss:g}."

    def _worth_as_text(self, worth: Worth) -> str:
        unit = "in F1" if self.rule.costs is None else "per customer"
        costs = "no costs" if self.rule.costs is None else str(self.rule.costs)
        return (
            f"The champion's threshold was chosen at other costs; at today's ({costs}) the decisions of version "
            f"{self.version} are worth {worth.challenger:.4f} {unit}, those of the champion {worth.champion:.4f}"
        )

    def to_json(self) -> str:
        """JSON of the attributes."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """The comparison that `to_json` wrote."""
        document = json.loads(text)
        champion, gain, worth = document["champion"], document["gain"], document["worth"]
        costs = document["rule"].pop("costs")
        return cls(
            version=document["version"],
            rows=document["rows"],
            rule=Rule(**document["rule"], costs=None if costs is None else CallCosts(**costs)),
            candidate=Evaluation(**document["candidate"]),
            champion_version=document["champion_version"],
            champion=None if champion is None else Evaluation(**champion),
            gain=None if gain is None else Gain(**gain),
            worth=None if worth is None else Worth(**worth),
            run_id=document["run_id"],
            champion_run_id=document["champion_run_id"],
        )


def measure_gain(
    rows: pd.DataFrame,
    churned: NDArray[np.integer],
    *,
    challenger: NDArray[np.floating],
    champion: NDArray[np.floating],
    rule: Rule,
    resamples: int = RESAMPLES,
) -> Gain:
    """What the challenger gains over the champion.

    Args:
        rows: n customers with their raw columns.
        churned: shape (n,), 0 or 1, both present.
        challenger: shape (n,), P(churn) of rows that its model has not seen.
        champion: the same of the champion.
        rule: its confidence sets the bounds.

    Returns:
        The same every time for the same arguments.
    """
    drawn = bootstrapped_aucs(churned, challenger, champion, resamples=resamples)
    low, high = np.quantile(drawn[0] - drawn[1], [1 - rule.confidence, rule.confidence])
    return Gain(
        auc=auc(churned, challenger) - auc(churned, champion),
        low=float(low),
        high=float(high),
        slices={
            name: auc(churned[members], challenger[members]) - auc(churned[members], champion[members])
            for name, members in judgeable_slices(rows, churned)
        },
    )


@dataclass(frozen=True)
class Decision:
    """Who is to be champion, and why, in a sentence."""

    version: int
    reason: str
    adopted: bool = False
    """Whether the choice was made by hand, in MLflow."""


def decide(comparison: Comparison, *, champion_version: int | None, set_by_hand: int | None) -> Decision:
    """The champion after this training.

    Args:
        comparison: of the new version with the champion.
        champion_version: the champion now, None when there is none.
        set_by_hand: a registered version that MLflow's alias was moved to by somebody, if it was; their word is final.

    Raises:
        StaleComparisonError: the champion is another one than was compared with.
    """
    if set_by_hand is not None and set_by_hand != champion_version:
        return Decision(
            set_by_hand,
            f"MLflow's alias was moved by hand to version {set_by_hand}, now the champion. {comparison.reason}",
            adopted=True,
        )
    if champion_version == comparison.version:
        return Decision(comparison.version, f"Version {comparison.version} is champion already.")
    if champion_version != comparison.champion_version:
        raise StaleComparisonError(
            f"Version {comparison.version} was compared with champion {comparison.champion_version or 'none'}, but the "
            f"champion is now {champion_version or 'none'}. Materialize model_evaluation again, then champion_model."
        )
    if comparison.candidate_wins or champion_version is None:
        return Decision(comparison.version, f"{comparison.reason} It is champion from now on.")
    return Decision(champion_version, f"{comparison.reason} Version {champion_version} stays champion.")
