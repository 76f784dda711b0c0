"""The search for hyperparameters, on the training split alone. The same rows and number of trials find the same ones.

Where the study is kept is the caller's choice: in a database it is resumed by whoever trains on the same rows next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.evaluation import brier_score
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.resampling import auc
from churn_platform.modeling.training import FOLDS, SEED, THREADS, Hyperparameters, fit, require_both_outcomes
from churn_platform.scoring.booster import import_xgboost, predict

if TYPE_CHECKING:
    import optuna

# To be raised with every change of what a trial does, so that trials of another kind are not taken for its own.
STUDY_VERSION: Final = 1
# Scoring takes as long as trees times depth: what is found costs the stream no more than 250 trees of depth 4.
TREES_TIMES_DEPTH: Final = 1_000
DEPTHS: Final = (3, 5)  # 2 finds no three features that work together; above 5 a few thousand rows are learned by heart
STOPPING_ROUNDS: Final = 30
STOPPING_SHARE: Final = 0.2
STARTUP_TRIALS: Final = 10
DIGITS: Final = 4  # significant ones of a hyperparameter: more would say nothing, and hide what a database may round
COMMITTED: Final = Hyperparameters()


@dataclass(frozen=True)
class Trial:
    """One set of hyperparameters and its figures out of fold.

    Attributes:
        number: of the trials that ended, from 1.
        hyperparameters: with as many trees as early stopping took.
        log_loss: mean of -log P(what happened); what the search makes small.
        roc_auc: of all rows.
        brier: of all rows.
    """

    number: int
    hyperparameters: Hyperparameters
    log_loss: float
    roc_auc: float
    brier: float


def tune(
    features: NDArray[np.float32],
    churned: NDArray[np.int64],
    *,
    trials: int,
    seconds: float,
    study: str,
    repeats: int = 1,
    first: Hyperparameters | None = COMMITTED,
    storage: optuna.storages.BaseStorage | None = None,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Search, or go on with a search that is on record.

    A trial is five folds: for each, early stopping finds the number of trees on a fifth of the rows that its model may
    see, a model with that many learns from all of those, and the fold's own rows are scored once. The log loss is what
    is made small: it asks for the right order as ROC AUC does, and for honest probabilities, too.

    Args:
        features: shape (n, 14), in the order of FEATURES, training split only.
        churned: shape (n,), 0 or 1.
        trials: how many are to have ended, those on record included.
        seconds: no trial begins after this long.
        study: name of the search; of the same rows, repeats and first trial only.
        repeats: how many seeds of the folds each trial is judged by: one seed's best trial is partly luck.
        first: what the first trial tries, but for its trees. None: the sampler begins. So does an evaluation that holds
            rows back, because the committed hyperparameters were found on all of the training split.
        storage: where it is kept; None: nowhere.
        on_trial: called after each new trial.

    Returns:
        At most `trials` trials, the best first: the same ones whether or not the search was interrupted meanwhile.

    Raises:
        TrainingDataError: a fold would lack one of the outcomes, or no trial ended in time.
    """
    import optuna

    require_both_outcomes(churned)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    searched = optuna.create_study(storage=storage, study_name=study, load_if_exists=True)
    began = time.monotonic()
    while (done := len(_ended(searched))) < trials and time.monotonic() - began < seconds:
        # By the number of trials that ended, so that a search goes on as if it had never been interrupted.
        searched.sampler = optuna.samplers.TPESampler(seed=SEED + done, n_startup_trials=STARTUP_TRIALS)
        if first is not None and done == 0 and not _waiting(searched):
            searched.enqueue_trial({name: first.as_dict()[name] for name in _space()})
        asked = searched.ask(_space())
        trial = _try(done + 1, features, churned, asked.params, repeats)
        for name, value in {
            "trees": trial.hyperparameters.trees,
            "roc_auc": trial.roc_auc,
            "brier": trial.brier,
        }.items():
            asked.set_user_attr(name, value)
        searched.tell(asked, trial.log_loss)
        on_trial(trial)
    ended = _ended(searched)[:trials]
    if not ended:
        raise TrainingDataError(f"No trial of study {study!r} ended within {seconds:g} s: raise TUNING_SECONDS.")
    return sorted((_recorded(number, each) for number, each in enumerate(ended, 1)), key=lambda each: each.log_loss)


def stopping_trees(features: NDArray[np.float32], churned: NDArray[np.int64], hyperparameters: Hyperparameters) -> int:
    """How many trees serve rows that were left out best: a fifth of these rows, by their log loss.

    Args:
        features: rows that a model may see; they are all that is read.
        churned: shape (n,), 0 or 1.
        hyperparameters: its trees are the most that there may be.
    """
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]  # 1 s to import

    library = import_xgboost()
    learned, watched = train_test_split(
        np.arange(len(churned)), test_size=STOPPING_SHARE, stratify=churned, random_state=SEED
    )
    rows = [library.DMatrix(features[each], label=churned[each], nthread=THREADS) for each in (learned, watched)]
    booster = library.train(
        {**hyperparameters.booster_parameters(), "eval_metric": "logloss"},
        rows[0],
        num_boost_round=hyperparameters.trees,
        evals=[(rows[1], "watched")],
        early_stopping_rounds=STOPPING_ROUNDS,
        verbose_eval=False,
    )
    return int(booster.best_iteration) + 1


def _try(
    number: int, features: NDArray[np.float32], churned: NDArray[np.int64], parameters: dict[str, Any], repeats: int
) -> Trial:
    from sklearn.model_selection import StratifiedKFold  # 1 s to import

    most = _hyperparameters(parameters, trees=TREES_TIMES_DEPTH // int(parameters["max_depth"]))
    probabilities = np.empty((repeats, len(churned)), dtype=np.float32)
    trees = []
    for repeat in range(repeats):
        for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED + repeat).split(features, churned):
            trees.append(stopping_trees(features[seen], churned[seen], most))
            booster = fit(features[seen], churned[seen], _hyperparameters(parameters, trees=trees[-1]))
            probabilities[repeat, unseen] = predict(booster, features[unseen], threads=THREADS)
    happened = np.where(churned == 1, probabilities.astype(np.float64), 1 - probabilities.astype(np.float64))
    return Trial(
        number=number,
        hyperparameters=_hyperparameters(parameters, trees=int(np.median(trees))),
        log_loss=float(-np.log(happened).mean()),
        roc_auc=float(np.mean([auc(churned, each) for each in probabilities])),
        brier=float(np.mean([brier_score(churned, each) for each in probabilities])),
    )


def _space() -> dict[str, optuna.distributions.BaseDistribution]:
    """What is searched. The ranges hold what suits some thousand rows of 14 features, of which 20 % churned."""
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        "max_depth": IntDistribution(*DEPTHS),
        "learning_rate": FloatDistribution(0.015, 0.15, log=True),  # a lower rate runs out of trees
        "subsample": FloatDistribution(0.5, 1.0),
        "colsample_bytree": FloatDistribution(0.4, 1.0),  # Age and NumOfProducts would be in every tree otherwise
        "min_child_weight": FloatDistribution(0.5, 20.0, log=True),
        "reg_lambda": FloatDistribution(0.1, 20.0, log=True),
    }


def _hyperparameters(parameters: dict[str, Any], *, trees: int) -> Hyperparameters:
    rounded = {name: float(f"{value:.{DIGITS}g}") for name, value in parameters.items() if name != "max_depth"}
    return Hyperparameters(trees=trees, max_depth=int(parameters["max_depth"]), **rounded)


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that have a result, in the order they began; those of a process that died have none."""
    import optuna

    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def _waiting(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that were given but not begun."""
    import optuna

    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))


def _recorded(number: int, trial: optuna.trial.FrozenTrial) -> Trial:
    figures = trial.user_attrs
    if trial.value is None:
        raise TrainingDataError(f"Trial {trial.number} is complete but has no value; delete the study and search anew.")
    return Trial(
        number=number,
        hyperparameters=_hyperparameters(trial.params, trees=figures["trees"]),
        log_loss=trial.value,
        roc_auc=figures["roc_auc"],
        brier=figures["brier"],
    )
