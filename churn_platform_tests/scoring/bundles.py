"""A small trained bundle for tests of what is done with one."""

from functools import cache

from churn_platform.features.columns import TARGET, columns_of
from churn_platform.modeling.training import Hyperparameters, data_hash, train
from churn_platform.scoring.bundle import ModelBundle
from churn_platform_tests.features.customers import cleaned, fitted

FEW_TREES = Hyperparameters(trees=20, learning_rate=0.2)


@cache
def small_bundle(hyperparameters: Hyperparameters = FEW_TREES) -> ModelBundle:
    """A bundle of 20 trees unless others are asked for, fitted on 500 customers of the generator."""
    rows = cleaned()
    transform = fitted(rows)
    trained = train(transform.transform(columns_of(rows)), rows[TARGET].to_numpy(), hyperparameters)
    return ModelBundle(
        model=trained.model,
        transform=transform,
        threshold=trained.threshold,
        metrics=trained.evaluation.as_dict("oof_"),
        code_version="test",
        data_hash=data_hash(rows),
        calibration=trained.calibration.calibration,
    )
