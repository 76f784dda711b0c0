"""Search for hyperparameters on the training split. The same rows and number of trials give the same result.

The caller decides where the study is stored. A study in a database is resumed by the next training on the same rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.evaluation import brier_score
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.resampling import auc
from churn_platform.modeling.training import FOLDS, SEED, THREADS, Hyperparameters, fit, require_both_outcomes
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.booster import import_xgboost, predict

if TYPE_CHECKING:
    import optuna

# Increase it when a trial changes, so that results of older trials are not reused.
STUDY_VERSION: Final = 1
# Scoring time is proportional to trees times depth: a result costs the stream no more than 250 trees of depth 4.
TREES_TIMES_DEPTH: Final = 1_000
DEPTHS: Final = (3, 5)  # depth 2 misses interactions of three features; depths above 5 overfit a few thousand rows
STOPPING_ROUNDS: Final = 30
STOPPING_SHARE: Final = 0.2
STARTUP_TRIALS: Final = 10
DIGITS: Final = 4  # significant digits of a hyperparameter: more have no effect, and a database might round them
COMMITTED: Final = Hyperparameters()


@dataclass(frozen=True)
class SearchLimits:
    """Limits of a search.

    Attributes:
        trees_times_depth: upper bound of the number of trees times their depth.
        startup_trials: number of random trials before the sampler uses earlier results.
    """

    trees_times_depth: int = TREES_TIMES_DEPTH
    startup_trials: int = STARTUP_TRIALS


DEFAULT_LIMITS: Final = SearchLimits()


@dataclass(frozen=True)
class Trial:
    """One set of hyperparameters and its out-of-fold metrics.

    Attributes:
        number: among the completed trials, from 1.
        hyperparameters: with the number of trees that early stopping found.
        log_loss: mean of -log P(actual outcome); the search minimises it.
        roc_auc: over all rows.
        brier: over all rows.
    """

    number: int
    hyperparameters: Hyperparameters
    log_loss: float
    roc_auc: float
    brier: float


def tune(
    features: NDArray[np.float32],
    churned: NDArray[np.int64],
    schema: CustomerSchema,
    *,
    trials: int,
    seconds: float,
    study: str,
    repeats: int = 1,
    first: Hyperparameters | None = COMMITTED,
    storage: optuna.storages.BaseStorage | None = None,
    on_trial: Callable[[Trial], None] = lambda _: None,
    limits: SearchLimits = DEFAULT_LIMITS,
) -> list[Trial]:
    """Run a search, or resume a stored one.

    A trial runs five folds. In each, early stopping on a fifth of the fold's training rows finds the number of trees, a
    model with that many trees is trained on all of them, and the fold's held-out rows are scored once. The search
    minimises the log loss, which rewards a good ranking, as ROC AUC does, and calibrated probabilities as well.

    Args:
        features: shape (n, features), in the order of `schema.features`, training split only.
        churned: shape (n,), 0 or 1.
        schema: names the features and states in which direction the risk may move with them.
        trials: total number of completed trials to reach, stored ones included.
        seconds: no trial starts after this time.
        study: name of the search. Use another name for other rows, repeats or first trial.
        repeats: number of fold seeds per trial. With one seed, the best trial is partly luck.
        first: hyperparameters of the first trial, except the number of trees. None leaves the first trial to the
            sampler. An evaluation with held-out rows needs None, because the defaults were found on all training rows.
        storage: where the study is stored; None does not store it.
        on_trial: called after each new trial.
        limits: see SearchLimits.

    Returns:
        At most `trials` trials, the best first. They are the same whether or not the search was interrupted.

    Raises:
        TrainingDataError: a fold would lack one of the outcomes, or no trial was completed in time.
    """
    import optuna

    require_both_outcomes(churned, schema)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    searched = optuna.create_study(storage=storage, study_name=study, load_if_exists=True)
    began = time.monotonic()
    while (done := len(_completed(searched))) < trials and time.monotonic() - began < seconds:
        # The seed depends on the number of completed trials, so a resumed search continues as if never interrupted.
        searched.sampler = optuna.samplers.TPESampler(seed=SEED + done, n_startup_trials=limits.startup_trials)
        if first is not None and done == 0 and not _waiting(searched):
            searched.enqueue_trial({name: first.as_dict()[name] for name in _space()})
        asked = searched.ask(_space())
        trial = _run_trial(done + 1, features, churned, schema, asked.params, repeats, limits)
        _record(searched, asked, trial)
        on_trial(trial)
    completed = _completed(searched)[:trials]
    if not completed:
        raise TrainingDataError(
            f"No trial of study {study!r} was completed within {seconds:g} s.", remedy="Raise TUNING_SECONDS."
        )
    return sorted(
        (_from_record(number, each) for number, each in enumerate(completed, 1)), key=lambda each: each.log_loss
    )


def stopping_trees(
    features: NDArray[np.float32],
    churned: NDArray[np.int64],
    schema: CustomerSchema,
    hyperparameters: Hyperparameters,
) -> int:
    """Return the number of trees with the lowest log loss on a held-out fifth of these rows.

    Args:
        features: shape (n, features), rows that a model may learn from.
        churned: shape (n,), 0 or 1.
        schema: states in which direction the risk may move with a feature.
        hyperparameters: their number of trees is the upper bound.
    """
    from sklearn.model_selection import train_test_split  # 1 s to import

    library = import_xgboost()
    trained, held_out = train_test_split(
        np.arange(len(churned)), test_size=STOPPING_SHARE, stratify=churned, random_state=SEED
    )
    rows = [library.DMatrix(features[each], label=churned[each], nthread=THREADS) for each in (trained, held_out)]
    booster = library.train(
        {**hyperparameters.booster_parameters(schema), "eval_metric": "logloss"},
        rows[0],
        num_boost_round=hyperparameters.trees,
        evals=[(rows[1], "held_out")],
        early_stopping_rounds=STOPPING_ROUNDS,
        verbose_eval=False,
    )
    return int(booster.best_iteration) + 1


def score_fold(
    features: NDArray[np.float32],
    churned: NDArray[np.int64],
    schema: CustomerSchema,
    held_out: NDArray[np.float32],
    hyperparameters: Hyperparameters,
) -> tuple[int, NDArray[np.float32]]:
    """Return the number of trees that early stopping finds, and P(churn) of the held-out rows with that many.

    Args:
        features: shape (n, features), the rows to learn from.
        churned: shape (n,), their outcomes.
        schema: names the features and states in which direction the risk may move with them.
        held_out: shape (m, features), scored and otherwise unused.
        hyperparameters: their number of trees is the upper bound.

    Returns:
        The number of trees, and shape (m,), 0..1.
    """
    trees = stopping_trees(features, churned, schema, hyperparameters)
    booster = fit(features, churned, schema, replace(hyperparameters, trees=trees))
    return trees, predict(booster, held_out, threads=THREADS)


def _run_trial(
    number: int,
    features: NDArray[np.float32],
    churned: NDArray[np.int64],
    schema: CustomerSchema,
    parameters: dict[str, Any],
    repeats: int,
    limits: SearchLimits,
) -> Trial:
    from sklearn.model_selection import StratifiedKFold  # 1 s to import

    upper = _hyperparameters(parameters, trees=limits.trees_times_depth // int(parameters["max_depth"]))
    probabilities = np.empty((repeats, len(churned)), dtype=np.float32)
    trees = []
    for repeat in range(repeats):
        for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED + repeat).split(features, churned):
            found, probabilities[repeat, unseen] = score_fold(
                features[seen], churned[seen], schema, features[unseen], upper
            )
            trees.append(found)
    of_outcome = np.where(churned == 1, probabilities.astype(np.float64), 1 - probabilities.astype(np.float64))
    return Trial(
        number=number,
        hyperparameters=_hyperparameters(parameters, trees=int(np.median(trees))),
        log_loss=float(-np.log(of_outcome).mean()),
        roc_auc=float(np.mean([auc(churned, each) for each in probabilities])),
        brier=float(np.mean([brier_score(churned, each) for each in probabilities])),
    )


def _space() -> dict[str, optuna.distributions.BaseDistribution]:
    """Return the search space. Its ranges suit some thousand rows of some dozen features, 20 % of them churners."""
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        "max_depth": IntDistribution(*DEPTHS),
        "learning_rate": FloatDistribution(0.015, 0.15, log=True),  # a lower rate needs more trees than allowed
        "subsample": FloatDistribution(0.5, 1.0),
        "colsample_bytree": FloatDistribution(0.4, 1.0),  # two strong features would be in every tree otherwise
        "min_child_weight": FloatDistribution(0.5, 20.0, log=True),
        "reg_lambda": FloatDistribution(0.1, 20.0, log=True),
    }


def _hyperparameters(parameters: dict[str, Any], *, trees: int) -> Hyperparameters:
    rounded = {name: float(f"{value:.{DIGITS}g}") for name, value in parameters.items() if name != "max_depth"}
    return Hyperparameters(trees=trees, max_depth=int(parameters["max_depth"]), **rounded)


def _completed(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that have a result, in the order they started. A trial whose process died has none."""
    import optuna

    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def _waiting(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that were enqueued and have not started."""
    import optuna

    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))


def _record(study: optuna.Study, asked: optuna.Trial, trial: Trial) -> None:
    """Store the result of a trial in the study, for `_from_record`."""
    asked.set_user_attr("trees", trial.hyperparameters.trees)
    asked.set_user_attr("roc_auc", trial.roc_auc)
    asked.set_user_attr("brier", trial.brier)
    study.tell(asked, trial.log_loss)


def _from_record(number: int, trial: optuna.trial.FrozenTrial) -> Trial:
    metrics = trial.user_attrs
    if trial.value is None:
        raise TrainingDataError(
            f"Trial {trial.number} is complete but has no value.", remedy="Delete the study and search again."
        )
    return Trial(
        number=number,
        hyperparameters=_hyperparameters(trial.params, trees=metrics["trees"]),
        log_loss=trial.value,
        roc_auc=metrics["roc_auc"],
        brier=metrics["brier"],
    )
