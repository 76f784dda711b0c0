"""A version against the champion on the rows of the training split, each row by a model that has not seen it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from churn_platform.features.columns import TARGET
from churn_platform.modeling.candidates import Comparison, Rule, Worth, measure_gain
from churn_platform.modeling.evaluation import Evaluation, evaluate
from churn_platform.modeling.out_of_fold import OutOfFold, unseen_probabilities
from churn_platform.modeling.threshold import CallCosts, worth_of_calls
from churn_platform.scoring.bundle import ModelBundle

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from churn_platform.settings import Settings


@dataclass(frozen=True)
class Contender:
    """A version, the MLflow run that trained it and where its bundle lies."""

    version: int
    run_id: str
    uri: str


def promotion_rule(settings: Settings) -> Rule:
    """When a challenger replaces the champion, by the settings."""
    return Rule(
        confidence=settings.training.promotion_confidence,
        slice_loss=settings.training.promotion_slice_loss,
        costs=None if settings.training.call_costs is None else CallCosts(*settings.training.call_costs),
    )


def compare(rows: pd.DataFrame, challenger: Contender, champion: Contender | None, rule: Rule) -> Comparison:
    """Judge both.

    Args:
        rows: the training split, raw columns and target.
        challenger: the version that wants to be champion.
        champion: None where there is none yet.
        rule: when the challenger wins.

    Raises:
        BundleError: a bundle, or what it said of its training rows, is missing or not what it was.
        TrainingDataError: all or none of the rows churned.
    """
    churned = rows[TARGET].to_numpy()
    new = _judged(challenger, rows, churned)
    if champion is None:
        return Comparison(
            version=challenger.version, run_id=challenger.run_id, rows=len(rows), rule=rule, candidate=new.evaluation
        )
    old = _judged(champion, rows, churned)
    return Comparison(
        version=challenger.version,
        run_id=challenger.run_id,
        rows=len(rows),
        rule=rule,
        candidate=new.evaluation,
        champion_version=champion.version,
        champion_run_id=champion.run_id,
        champion=old.evaluation,
        gain=measure_gain(rows, churned, challenger=new.probabilities, champion=old.probabilities, rule=rule),
        worth=None
        if old.costs == rule.costs
        else Worth(
            challenger=worth_of_calls(churned, new.called, rule.costs),
            champion=worth_of_calls(churned, old.called, rule.costs),
        ),
    )


@dataclass(frozen=True)
class _Judged:
    """Shape (n,): P(churn) of the rows, and who is called; the figures of both; the costs behind the threshold."""

    probabilities: NDArray[np.float32]
    called: NDArray[np.bool_]
    evaluation: Evaluation
    costs: CallCosts | None


def _judged(side: Contender, rows: pd.DataFrame, churned: NDArray[np.int64]) -> _Judged:
    bundle = ModelBundle.load(side.uri)
    probabilities = unseen_probabilities(bundle, OutOfFold.load(side.uri), rows)
    return _Judged(
        probabilities=probabilities,
        called=probabilities >= bundle.threshold,
        evaluation=evaluate(churned, probabilities, threshold=bundle.threshold),
        costs=bundle.costs,
    )
