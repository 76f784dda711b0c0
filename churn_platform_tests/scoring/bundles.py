"""Small trained bundles for tests of what is done with one."""

from functools import cache

import pandas as pd

from churn_platform.modeling.training import Hyperparameters, data_hash, train
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle
from churn_platform_tests.features.customers import BANK, cleaned, fitted, inputs

FEW_TREES = Hyperparameters(trees=20, learning_rate=0.2)


@cache
def small_bundle(hyperparameters: Hyperparameters = FEW_TREES) -> ModelBundle:
    """A bundle of 20 trees unless others are asked for, fitted on 500 customers of the generator."""
    return bundle_of(cleaned(), BANK, hyperparameters)


def bundle_of(rows: pd.DataFrame, schema: CustomerSchema, hyperparameters: Hyperparameters = FEW_TREES) -> ModelBundle:
    """A bundle that is fitted and trained on these rows."""
    transform = fitted(rows, schema)
    trained = train(transform.transform(inputs(rows, schema)), rows[schema.target].to_numpy(), schema, hyperparameters)
    return ModelBundle(
        model=trained.model,
        transform=transform,
        threshold=trained.threshold,
        metrics=trained.evaluation.as_dict("oof_"),
        code_version="test",
        data_hash=data_hash(rows),
        calibration=trained.calibration.calibration,
    )
