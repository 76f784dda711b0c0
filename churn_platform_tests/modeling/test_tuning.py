"""A search finds the same hyperparameters every time, interrupted or not, and sees the training rows only."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import psycopg
import pytest

from churn_platform.database.studies import study_storage
from churn_platform.features.columns import TARGET, columns_of
from churn_platform.modeling import tuning
from churn_platform.modeling.exceptions import TrainingDataError
from churn_platform.modeling.training import Hyperparameters, fit, train
from churn_platform.modeling.tuning import TREES_TIMES_DEPTH, Trial, stopping_trees, tune
from churn_platform.scoring.booster import predict
from churn_platform_tests.features.customers import cleaned, fitted

CUSTOMERS = cleaned(600)
CHURNED = CUSTOMERS[TARGET].to_numpy()
MATRIX = fitted(CUSTOMERS).transform(columns_of(CUSTOMERS))
TRIALS = 4


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models, and a search that leaves chance behind after two trials."""
    monkeypatch.setattr(tuning, "TREES_TIMES_DEPTH", 60)
    monkeypatch.setattr(tuning, "STARTUP_TRIALS", 2)


class Interrupted(Exception):  # noqa: N818  it is no error but the end of a process
    """Raised in the middle of a search."""


def search(
    dsn: str, study: str, *, trials: int = TRIALS, on_trial: Callable[[Trial], None] = lambda _: None
) -> list[Trial]:
    """Search in this database."""
    with study_storage(dsn) as storage:
        return tune(MATRIX, CHURNED, trials=trials, seconds=60, study=study, storage=storage, on_trial=on_trial)


def test_an_interrupted_search_is_resumed_and_finds_what_it_would_have_found(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = tune(MATRIX, CHURNED, trials=TRIALS, seconds=60, study="at once")

    def die(*_: object) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        search(database, "resumed", on_trial=lambda trial: die() if trial.number == 2 else None)
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "fit", die)  # in the middle of the third trial
        with pytest.raises(Interrupted):
            search(database, "resumed")
    resumed: list[int] = []
    found = search(database, "resumed", on_trial=lambda trial: resumed.append(trial.number))

    assert resumed == [3, 4]
    assert found == at_once
    assert {trial.number for trial in found} == {1, 2, 3, 4}
    assert search(database, "resumed", trials=2) == tune(MATRIX, CHURNED, trials=2, seconds=60, study="two")
    bundles = [train(MATRIX, CHURNED, each[0].hyperparameters).model for each in (found, at_once)]
    assert bundles[0] == bundles[1]


def test_a_study_is_kept_in_a_schema_of_its_own(database: str) -> None:
    search(database, "kept", trials=1)

    with psycopg.connect(database) as connection:
        kept = connection.execute("select study_name from optuna.studies").fetchall()
        elsewhere = connection.execute("select to_regclass('studies'), to_regclass('trials')").fetchone()
    assert ("kept",) in kept
    assert elsewhere == (None, None)


def test_the_first_trial_is_the_committed_hyperparameters_and_the_best_comes_first() -> None:
    found = tune(MATRIX, CHURNED, trials=TRIALS, seconds=60, study="first")

    first = next(trial for trial in found if trial.number == 1)
    committed = Hyperparameters(trees=first.hyperparameters.trees)
    assert first.hyperparameters == committed
    assert found[0].log_loss == min(trial.log_loss for trial in found)
    for trial in found:
        assert 1 <= trial.hyperparameters.trees * trial.hyperparameters.max_depth <= tuning.TREES_TIMES_DEPTH


def test_a_search_begins_with_what_it_is_given_or_with_nothing_at_all() -> None:
    given = Hyperparameters(max_depth=4, learning_rate=0.1)
    asked, unasked = (
        tune(MATRIX, CHURNED, trials=2, seconds=60, study="given", first=first) for first in (given, None)
    )

    begun = next(trial.hyperparameters for trial in asked if trial.number == 1)
    assert begun == replace(given, trees=begun.trees)
    known = {given.learning_rate, Hyperparameters().learning_rate}
    assert known.isdisjoint(trial.hyperparameters.learning_rate for trial in unasked)


def test_committed_hyperparameters_score_as_fast_as_a_search_may_choose() -> None:
    assert Hyperparameters().trees * Hyperparameters().max_depth <= TREES_TIMES_DEPTH


def test_no_time_for_a_trial_is_said() -> None:
    with pytest.raises(TrainingDataError, match=r"No trial of study 'none' ended within 0 s: raise TUNING_SECONDS"):
        tune(MATRIX, CHURNED, trials=1, seconds=0, study="none")


def test_neither_trees_nor_models_of_a_fold_read_the_rows_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[set[bytes]] = []

    def keys(rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> set[bytes]:
        return {row.tobytes() for row in rows}

    def stopping(features, churned, hyperparameters):  # type: ignore[no-untyped-def]
        read.append(keys(features))
        return stopping_trees(features, churned, hyperparameters)

    def fitting(features, churned, hyperparameters):  # type: ignore[no-untyped-def]
        assert keys(features) == read[-1]
        return fit(features, churned, hyperparameters)

    def predicting(booster, features, *, threads):  # type: ignore[no-untyped-def]
        assert not keys(features) & read[-1]
        return predict(booster, features, threads=threads)

    monkeypatch.setattr(tuning, "stopping_trees", stopping)
    monkeypatch.setattr(tuning, "fit", fitting)
    monkeypatch.setattr(tuning, "predict", predicting)
    tune(MATRIX, CHURNED, trials=1, seconds=60, study="watched")

    assert len(read) == 5
