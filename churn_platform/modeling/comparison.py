"""Compare a challenger with the champion on the training split, each row scored by a model that has not seen it.

Whether the challenger wins is decided here; who becomes champion is decided in promotion.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from churn_platform.features.exceptions import FeatureError
from churn_platform.model_store import load_bundle
from churn_platform.modeling.evaluation import Evaluation, brier_score, evaluate
from churn_platform.modeling.exceptions import IncomparableModelError
from churn_platform.modeling.out_of_fold import OutOfFold, unseen_probabilities
from churn_platform.modeling.resampling import RESAMPLES, auc, bootstrapped_aucs
from churn_platform.modeling.slices import slices_large_enough
from churn_platform.modeling.threshold import value_of_calls
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.costs import CallCosts

if TYPE_CHECKING:
    from churn_platform.files.stored_frame import Frame
    from churn_platform.modeling.trained_model import TrainedModel


@dataclass(frozen=True)
class PromotionRule:
    """When a challenger becomes champion.

    Attributes:
        confidence: share of the bootstrap resamples in which the challenger must be better, 0.5..1.
        slice_loss: maximum ROC AUC that a slice of the customers may lose.
        costs: today's costs of a call; None if not configured.
        least_roc_auc: out-of-fold ROC AUC that a first model needs, 0.5..1.
    """

    confidence: float
    slice_loss: float
    costs: CallCosts | None = None
    least_roc_auc: float = 0.5


@dataclass(frozen=True)
class Gain:
    """ROC AUC of the challenger minus that of the champion, on the same rows, each unseen by the model that scores it.

    Attributes:
        auc: on all rows.
        low: lower bound with the confidence of the rule, by a paired bootstrap.
        high: upper bound with the same confidence.
        slices: the same difference for each slice that is large enough.
    """

    auc: float
    low: float
    high: float
    slices: Mapping[str, float]


@dataclass(frozen=True)
class DecisionValue:
    """Value of both models' decisions at today's costs: profit per customer, or F1 without costs.

    Measured on the same rows as the gain, each model with its own threshold.
    """

    challenger: float
    champion: float


@dataclass(frozen=True)
class Comparison:
    """A challenger and the champion, evaluated on the same training rows, out of fold.

    Attributes:
        version: version of the challenger.
        rows: number of rows.
        rule: when the challenger wins.
        challenger: metrics of the challenger.
        constant_brier: Brier score of the constant prediction, which is the churn rate for every row.
        champion_version: the champion at the time of the comparison, None when there was none.
        champion: metrics of the champion.
        gain: of the challenger over the champion.
        decision_value: set only if the champion's threshold was chosen at other costs than today's. The gain alone,
            which ignores thresholds, would then favour the champion.
        run_id: MLflow run of the challenger. Version numbers start again with a new registry; runs do not.
        champion_run_id: MLflow run of the champion.
    """

    version: int
    rows: int
    rule: PromotionRule
    challenger: Evaluation
    constant_brier: float
    champion_version: int | None = None
    champion: Evaluation | None = None
    gain: Gain | None = None
    decision_value: DecisionValue | None = None
    run_id: str = ""
    champion_run_id: str | None = None

    @property
    def objections(self) -> list[str]:
        """Reasons not to promote the challenger, as text; empty if it should be promoted."""
        if self.gain is None:
            return self._objections_to_first()
        found = []
        confidence = f"{self.rule.confidence:.0%} confidence"
        if self.gain.low <= 0 and self.decision_value is None:
            found.append(f"the gain is not significant: at {confidence} it may be {self.gain.low:+.4f}")
        elif self.gain.high < 0:
            found.append(f"the loss is significant: at {confidence} it is {-self.gain.high:.4f} or more")
        elif (
            self.gain.low <= 0
            and self.decision_value is not None
            and self.decision_value.challenger <= self.decision_value.champion
        ):
            found.append("its gain is not significant, and its decisions are worth no more at today's costs")
        found += [
            f"{name} loses {-gain:.4f} of ROC AUC, more than the {self.rule.slice_loss:g} allowed"
            for name, gain in sorted(self.gain.slices.items(), key=lambda each: each[1])
            if gain < -self.rule.slice_loss
        ]
        return found

    def _objections_to_first(self) -> list[str]:
        """Return the reasons not to promote a first model: it is no better than a constant, or worse than required."""
        found = []
        if self.challenger.brier >= self.constant_brier:
            found.append(
                f"predicting the churn rate for every customer is as good: its Brier score is "
                f"{self.constant_brier:.4f}, the model's {self.challenger.brier:.4f}"
            )
        if self.challenger.roc_auc < self.rule.least_roc_auc:
            found.append(
                f"its out-of-fold ROC AUC is {self.challenger.roc_auc:.4f}, and a first model needs "
                f"{self.rule.least_roc_auc:g} (least_roc_auc of the customer schema)"
            )
        return found

    @property
    def challenger_wins(self) -> bool:
        """Whether the challenger should be champion."""
        return not self.objections

    @property
    def reason(self) -> str:
        """The result in one or two sentences."""
        if self.champion is None or self.gain is None:
            first = f"Version {self.version} is the first: there was no champion to compare it with."
            return f"{first} Not promoted: {'; '.join(self.objections)}." if self.objections else first
        metrics = (
            f"Version {self.version} has an out-of-fold ROC AUC of {self.challenger.roc_auc:.4f}, champion "
            f"{self.champion_version} has {self.champion.roc_auc:.4f} on the same {self.rows:,} rows: a gain of "
            f"{self.gain.auc:+.4f} ({self.gain.low:+.4f} to {self.gain.high:+.4f})"
        )
        if self.decision_value is not None:
            metrics += f". {self._decision_value_as_text(self.decision_value)}"
        if not self.challenger_wins:
            return f"{metrics}. Not promoted: {'; '.join(self.objections)}."
        why = (
            "the gain is significant"
            if self.gain.low > 0
            else "its decisions are worth more, its ranking is not significantly worse"
        )
        return f"{metrics}. Promoted: {why}, and no slice loses more than {self.rule.slice_loss:g}."

    def _decision_value_as_text(self, value: DecisionValue) -> str:
        unit = "in F1" if self.rule.costs is None else "per customer"
        costs = "no costs" if self.rule.costs is None else str(self.rule.costs)
        return (
            f"The champion's threshold was chosen at other costs. At today's ({costs}), the decisions of version "
            f"{self.version} are worth {value.challenger:.4f} {unit}, those of the champion {value.champion:.4f}"
        )

    def to_json(self) -> str:
        """Return JSON of the attributes."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """Return the comparison that `to_json` wrote."""
        document = json.loads(text)
        champion, gain, value = document["champion"], document["gain"], document["decision_value"]
        costs = document["rule"].pop("costs")
        return cls(
            version=document["version"],
            rows=document["rows"],
            rule=PromotionRule(**document["rule"], costs=None if costs is None else CallCosts(**costs)),
            challenger=Evaluation(**document["challenger"]),
            constant_brier=document["constant_brier"],
            champion_version=document["champion_version"],
            champion=None if champion is None else Evaluation(**champion),
            gain=None if gain is None else Gain(**gain),
            decision_value=None if value is None else DecisionValue(**value),
            run_id=document["run_id"],
            champion_run_id=document["champion_run_id"],
        )


def compare(rows: Frame, challenger: TrainedModel, champion: TrainedModel | None, rule: PromotionRule) -> Comparison:
    """Evaluate both models on the same rows. Reads their bundles.

    Args:
        rows: the training split, raw columns and target, prepared with the customer schema of the challenger.
        challenger: the version that may become champion.
        champion: None if there is none yet.
        rule: when the challenger wins.

    Raises:
        BundleError: a bundle, or the record of its out-of-fold probabilities, is missing or was changed.
        TrainingDataError: all or none of the rows churned.
        IncomparableModelError: the champion has another customer schema and cannot score the rows.
    """
    bundle = load_bundle(challenger.uri)
    schema = bundle.schema
    churned = rows[schema.target].to_numpy()
    constant_brier = brier_score(churned, np.full(len(churned), churned.mean()))
    new = _evaluate(challenger, bundle, rows, churned)
    if champion is None:
        return Comparison(
            version=challenger.version,
            run_id=challenger.run_id,
            rows=len(rows),
            rule=rule,
            challenger=new.evaluation,
            constant_brier=constant_brier,
        )
    old = _evaluate_champion(champion, rows, churned, challenger=challenger)
    return Comparison(
        version=challenger.version,
        run_id=challenger.run_id,
        rows=len(rows),
        rule=rule,
        challenger=new.evaluation,
        constant_brier=constant_brier,
        champion_version=champion.version,
        champion_run_id=champion.run_id,
        champion=old.evaluation,
        gain=measure_gain(rows, churned, schema, challenger=new.probabilities, champion=old.probabilities, rule=rule),
        decision_value=None
        if old.costs == rule.costs
        else DecisionValue(
            challenger=value_of_calls(churned, new.called, rule.costs),
            champion=value_of_calls(churned, old.called, rule.costs),
        ),
    )


def measure_gain(
    rows: Frame,
    churned: NDArray[np.integer],
    schema: CustomerSchema,
    *,
    challenger: NDArray[np.floating],
    champion: NDArray[np.floating],
    rule: PromotionRule,
    resamples: int = RESAMPLES,
) -> Gain:
    """Return the gain of the challenger over the champion. The same arguments always give the same gain.

    Args:
        rows: n customers with their raw columns.
        churned: shape (n,), 0 or 1, both present.
        schema: says which columns divide the customers into slices.
        challenger: shape (n,), P(churn) of rows that its model has not seen.
        champion: shape (n,), the same of the champion.
        rule: its confidence sets the bounds.
        resamples: number of bootstrap resamples.
    """
    aucs = bootstrapped_aucs(churned, challenger, champion, resamples=resamples)
    low, high = np.quantile(aucs[0] - aucs[1], [1 - rule.confidence, rule.confidence])
    return Gain(
        auc=auc(churned, challenger) - auc(churned, champion),
        low=float(low),
        high=float(high),
        slices={
            name: auc(churned[members], challenger[members]) - auc(churned[members], champion[members])
            for name, members in slices_large_enough(rows, churned, schema)
        },
    )


@dataclass(frozen=True)
class _Evaluated:
    """One side of a comparison.

    Attributes:
        probabilities: shape (n,), P(churn) of the rows.
        called: shape (n,), whether the customer would be called.
        evaluation: metrics of both.
        costs: the costs for which the threshold was chosen.
    """

    probabilities: NDArray[np.float32]
    called: NDArray[np.bool_]
    evaluation: Evaluation
    costs: CallCosts | None


def _evaluate_champion(
    champion: TrainedModel, rows: Frame, churned: NDArray[np.int64], *, challenger: TrainedModel
) -> _Evaluated:
    """Return the metrics of the champion.

    Raises:
        IncomparableModelError: it cannot score the rows.
    """
    try:
        return _evaluate(champion, load_bundle(champion.uri), rows, churned)
    except FeatureError as error:
        raise IncomparableModelError(
            f"Champion {champion.version} was trained with another customer schema and cannot score the training rows: "
            f"{error.problem}",
            remedy=f"Promote the new version without a comparison: 'churn model promote {challenger.version}'.",
        ) from error


def _evaluate(model: TrainedModel, bundle: ModelBundle, rows: Frame, churned: NDArray[np.int64]) -> _Evaluated:
    probabilities = unseen_probabilities(bundle, OutOfFold.load(model.uri), rows)
    return _Evaluated(
        probabilities=probabilities,
        called=probabilities >= bundle.threshold,
        evaluation=evaluate(churned, probabilities, threshold=bundle.threshold),
        costs=bundle.costs,
    )
