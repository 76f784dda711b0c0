"""Decide which version is champion after a training. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from churn_platform.modeling.comparison import Comparison, PromotionRule
from churn_platform.modeling.exceptions import StaleComparisonError, WeakFirstModelError
from churn_platform.scoring.costs import CallCosts

if TYPE_CHECKING:
    from churn_platform.schema.customer_schema import CustomerSchema
    from churn_platform.settings import Settings


@dataclass(frozen=True)
class Decision:
    """The version that becomes or stays champion.

    Attributes:
        version: its number.
        reason: why, in one or two sentences.
        adopted: whether somebody chose it manually, in MLflow.
    """

    version: int
    reason: str
    adopted: bool = False


@dataclass(frozen=True)
class ShadowRecord:
    """How much a version has scored the stream's events as a shadow, and how much is required.

    Attributes:
        version: its number.
        required_days: SHADOW_DAYS; 0 for none.
        days: for which it has followed the stream.
        events: that it has scored.
        is_active: whether it is a shadow now.
    """

    version: int
    required_days: float
    days: float
    events: int
    is_active: bool

    @property
    def objection(self) -> str | None:
        """Why the version may not be promoted yet, as a sentence; None if it may."""
        if self.days >= self.required_days and (self.events or not self.required_days):
            return None
        found = f"It was a shadow for {self.days:.2f} of the {self.required_days:g} days that SHADOW_DAYS requires"
        found += f", and has scored {self.events:,} events." if self.events else ", and has scored no event."
        if self.is_active:
            return f"{found} It is a shadow now."
        return f"{found} 'churn model shadow {self.version}' goes on."


def promotion_rule(settings: Settings, schema: CustomerSchema) -> PromotionRule:
    """Return the rule that the settings and the customer schema describe."""
    return PromotionRule(
        confidence=settings.training.promotion_confidence,
        slice_loss=settings.training.promotion_slice_loss,
        costs=None if settings.training.call_costs is None else CallCosts(*settings.training.call_costs),
        least_roc_auc=schema.least_roc_auc,
    )


def decide(
    comparison: Comparison, *, champion_version: int | None, set_by_hand: int | None, shadow: ShadowRecord | None = None
) -> Decision:
    """Return the champion after this training.

    Args:
        comparison: of the new version with the champion.
        champion_version: the champion now, None when there is none.
        set_by_hand: the registered version that somebody moved MLflow's alias to, if anybody did. It always wins.
        shadow: what the new version has done as a shadow; None if nothing is required.

    Raises:
        StaleComparisonError: the champion is not the one of the comparison.
        WeakFirstModelError: there is no champion, and this version is too weak to be the first.
    """
    if set_by_hand is not None and set_by_hand != champion_version:
        return Decision(
            set_by_hand,
            f"MLflow's alias was moved by hand to version {set_by_hand}, now the champion. {comparison.reason}",
            adopted=True,
        )
    if champion_version == comparison.version:
        return Decision(comparison.version, f"Version {comparison.version} is already champion.")
    if champion_version != comparison.champion_version:
        raise StaleComparisonError(
            f"Version {comparison.version} was compared with champion {comparison.champion_version or 'none'}, but the "
            f"champion is now {champion_version or 'none'}.",
            remedy="Materialize model_evaluation again, then champion_model.",
        )
    if champion_version is None and not comparison.challenger_wins:
        raise WeakFirstModelError(
            comparison.reason,
            remedy=f"Add customers or columns that tell who leaves, or lower least_roc_auc in the customer schema. "
            f"'churn model promote {comparison.version}' promotes the version nevertheless.",
        )
    objection = None if shadow is None else shadow.objection
    if champion_version is not None and comparison.challenger_wins and objection is not None:
        return Decision(
            champion_version,
            f"{comparison.reason} Version {champion_version} stays champion until version {comparison.version} was a "
            f"shadow for long enough. {objection} Then materialize champion_model again.",
        )
    if champion_version is None or comparison.challenger_wins:
        return Decision(comparison.version, f"{comparison.reason} It is now the champion.")
    return Decision(champion_version, f"{comparison.reason} Version {champion_version} stays champion.")
