"""What the training assets hand on to each other: a trained version, and its comparison with the champion. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from churn_platform.modeling.evaluation import Evaluation
from churn_platform.modeling.exceptions import StaleComparisonError


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
class Comparison:
    """A candidate and the champion, judged on the same rows of the test split.

    Attributes:
        version: the candidate.
        candidate: its figures.
        champion_version: the champion at that time, None when there was none.
        champion: its figures on the same rows.
    """

    version: int
    candidate: Evaluation
    champion_version: int | None
    champion: Evaluation | None

    @property
    def candidate_wins(self) -> bool:
        """Whether the candidate should be champion: there is none, or its ROC AUC is at least the champion's."""
        return self.champion is None or self.candidate.roc_auc >= self.champion.roc_auc

    @property
    def reason(self) -> str:
        """The decision in a sentence."""
        if self.champion is None:
            return f"Version {self.version} is the first: there was no champion to compare it with."
        relation = "is at least" if self.candidate_wins else "is below"
        return (
            f"Version {self.version}'s ROC AUC {self.candidate.roc_auc:.4f} {relation} the {self.champion.roc_auc:.4f} "
            f"of version {self.champion_version} on the same test rows."
        )

    def to_json(self) -> str:
        """JSON of the attributes."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """The comparison that `to_json` wrote."""
        document = json.loads(text)
        champion = document["champion"]
        return cls(
            version=document["version"],
            candidate=Evaluation(**document["candidate"]),
            champion_version=document["champion_version"],
            champion=None if champion is None else Evaluation(**champion),
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
