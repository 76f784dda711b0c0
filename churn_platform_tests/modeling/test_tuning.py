"""A search is reproducible, can be interrupted and resumed, and never learns from held-out rows."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import psycopg
import pytest

from churn_platform.database.studies import study_storage
from churn_platform.modeling import tuning
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.training import Hyperparameters, fit, train
from churn_platform.modeling.tuning import TREES_TIMES_DEPTH, SearchLimits, Trial, score_fold, stopping_trees, tune
from churn_platform.scoring.booster import predict
from churn_platform_tests.features.customers import BANK, cleaned, fitted, inputs

CUSTOMERS = cleaned(600)
CHURNED = CUSTOMERS[BANK.target].to_numpy()
MATRIX = fitted(CUSTOMERS).transform(inputs(CUSTOMERS))
TRIALS = 4


# Small models, and a sampler that uses earlier results from the third trial on: the tests take seconds.
LIMITS = SearchLimits(trees_times_depth=60, startup_trials=2)


class Interrupted(Exception):  # noqa: N818  it simulates the end of a process, which is not an error
    """Raised in the middle of a search."""


def search(
    dsn: str, study: str, *, trials: int = TRIALS, on_trial: Callable[[Trial], None] = lambda _: None
) -> list[Trial]:
    """Search with the study stored in this database."""
    with study_storage(dsn) as storage:
        return tune(
            MATRIX,
            CHURNED,
            BANK,
            trials=trials,
            seconds=60,
            study=study,
            storage=storage,
            on_trial=on_trial,
            limits=LIMITS,
        )


@pytest.mark.slow
def test_an_interrupted_search_is_resumed_and_finds_the_same(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = tune(MATRIX, CHURNED, BANK, trials=TRIALS, seconds=60, study="at once", limits=LIMITS)

    def die(*_: object) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        search(database, "resumed", on_trial=lambda trial: die() if trial.number == 2 else None)
    with monkeypatch.context() as patch:
        # A fault in the middle of the third trial: callers can only interrupt between two trials.
        patch.setattr(tuning, "fit", die)
        with pytest.raises(Interrupted):
            search(database, "resumed")
    resumed: list[int] = []
    found = search(database, "resumed", on_trial=lambda trial: resumed.append(trial.number))

    assert resumed == [3, 4]
    assert found == at_once
    assert {trial.number for trial in found} == {1, 2, 3, 4}
    assert search(database, "resumed", trials=2) == tune(
        MATRIX, CHURNED, BANK, trials=2, seconds=60, study="two", limits=LIMITS
    )
    bundles = [train(MATRIX, CHURNED, BANK, each[0].hyperparameters).model for each in (found, at_once)]
    assert bundles[0] == bundles[1]


def test_a_study_is_stored_in_its_own_schema(database: str) -> None:
    search(database, "kept", trials=1)

    with psycopg.connect(database) as connection:
        kept = connection.execute("select study_name from optuna.studies").fetchall()
        elsewhere = connection.execute("select to_regclass('studies'), to_regclass('trials')").fetchone()
    assert ("kept",) in kept
    assert elsewhere == (None, None)


def test_the_first_trial_uses_the_committed_hyperparameters_and_the_best_trial_comes_first() -> None:
    found = tune(MATRIX, CHURNED, BANK, trials=TRIALS, seconds=60, study="first", limits=LIMITS)

    first = next(trial for trial in found if trial.number == 1)
    committed = Hyperparameters(trees=first.hyperparameters.trees)
    assert first.hyperparameters == committed
    assert found[0].log_loss == min(trial.log_loss for trial in found)
    for trial in found:
        assert 1 <= trial.hyperparameters.trees * trial.hyperparameters.max_depth <= LIMITS.trees_times_depth


def test_a_search_starts_with_the_given_hyperparameters_or_with_the_sampler() -> None:
    given = Hyperparameters(max_depth=4, learning_rate=0.1)
    asked, unasked = (
        tune(MATRIX, CHURNED, BANK, trials=2, seconds=60, study="given", first=first, limits=LIMITS)
        for first in (given, None)
    )

    begun = next(trial.hyperparameters for trial in asked if trial.number == 1)
    assert begun == replace(given, trees=begun.trees)
    known = {given.learning_rate, Hyperparameters().learning_rate}
    assert known.isdisjoint(trial.hyperparameters.learning_rate for trial in unasked)


def test_the_committed_hyperparameters_are_within_the_limit_of_scoring_time() -> None:
    assert Hyperparameters().trees * Hyperparameters().max_depth <= TREES_TIMES_DEPTH


def test_no_time_for_a_trial_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(
        TrainingDataError, match=r"No trial of study 'none' was completed within 0 s\. Raise TUNING_SECONDS"
    ):
        tune(MATRIX, CHURNED, BANK, trials=1, seconds=0, study="none")


def test_a_fold_does_not_learn_from_its_held_out_rows() -> None:
    seen, unseen = np.arange(400), np.arange(400, len(MATRIX))
    hyperparameters = Hyperparameters(trees=20)

    trees, probabilities = score_fold(MATRIX[seen], CHURNED[seen], BANK, MATRIX[unseen], hyperparameters)
    fewer_trees, fewer = score_fold(MATRIX[seen], CHURNED[seen], BANK, MATRIX[unseen][:50], hyperparameters)

    assert fewer_trees == trees == stopping_trees(MATRIX[seen], CHURNED[seen], BANK, hyperparameters)
    np.testing.assert_array_equal(fewer, probabilities[:50])
    model = fit(MATRIX[seen], CHURNED[seen], BANK, replace(hyperparameters, trees=trees))
    np.testing.assert_array_equal(probabilities, predict(model, MATRIX[unseen], threads=1))
