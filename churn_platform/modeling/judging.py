"""A version against the champion on the rows of the training split, each row by a model that has not seen it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from churn_platform.features.columns import TARGET
from churn_platform.modeling.bundle import ModelBundle
from churn_platform.modeling.candidates import Comparison, Rule, measure_gain
from churn_platform.modeling.evaluation import evaluate
from churn_platform.modeling.out_of_fold import OutOfFold, unseen_probabilities

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Contender:
    """A version and where its bundle lies."""

    version: int
    uri: str


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
    sides = []
    for side in (challenger, champion):
        if side is not None:
            bundle = ModelBundle.load(side.uri)
            probabilities = unseen_probabilities(bundle, OutOfFold.load(side.uri), rows)
            sides.append((probabilities, evaluate(churned, probabilities, threshold=bundle.threshold)))
    if champion is None:
        return Comparison(version=challenger.version, rows=len(rows), rule=rule, candidate=sides[0][1])
    (new, candidate), (old, evaluation) = sides
    return Comparison(
        version=challenger.version,
        rows=len(rows),
        rule=rule,
        candidate=candidate,
        champion_version=champion.version,
        champion=evaluation,
        gain=measure_gain(rows, churned, challenger=new, champion=old, rule=rule),
    )
