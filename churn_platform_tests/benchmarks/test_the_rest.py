"""The benchmarks of latency, stages, growth, data preparation, training and the model, with little data."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import batch, cost, growth, large_file, latency, model, size, stages, summaries
from churn_platform.modeling import tuning
from churn_platform.modeling.training import FOLDS, Hyperparameters, out_of_fold_probabilities
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.schema.reader import load_customers
from churn_platform_tests.features.customers import BANK

RATE = 100
SECONDS = 5
CUSTOMERS = 2_000
# Minimum ratio of a stage's rate to its upper bound. It holds on a busy machine, because both are measured alternately.
MIN_SHARE = 0.05
# Maximum cost relative to a new platform. So little growth costs nothing; the rest is noise.
MAX_RATIO = 3
# Dozens of models of 300 trees would take minutes.
FEW_TREES = Hyperparameters(trees=10)


@pytest.mark.slow
def test_latency_measures_every_event_to_its_row_and_to_the_topic() -> None:
    found, first = latency.measure(
        Console(quiet=True), rates=[RATE], seconds=SECONDS, first_events=1, pause=0, warm_up=5
    )
    seen = found[str(RATE)]
    assert len(first) == 1
    assert abs(seen.events - RATE * SECONDS) < RATE  # on a busy machine the producer sends later, not fewer events
    for quantiles in (seen.row, seen.topic):
        assert 0 < quantiles.p50 <= quantiles.p90 <= quantiles.p99 <= quantiles.max


@pytest.mark.slow
def test_size_measures_the_disk_of_rows_and_of_both_topics() -> None:
    found = size.measure(Console(quiet=True), events=8_000, commit_events=1_000)

    assert 100 < found.postgres < 1_000
    assert 300 < found.events_topic < 500
    assert 300 < found.predictions_topic < 600


@pytest.mark.slow
def test_cost_compares_the_platform_with_the_reference_loop_at_the_same_latency() -> None:
    found, idle, reference_idle = cost.measure(
        Console(quiet=True),
        rates=[RATE],
        pairs=1,
        seconds=SECONDS,
        warm_up=5,
        idle_seconds=SECONDS,
        compiling_seconds=1,
    )
    of_rate = found[str(RATE)]
    assert {"kafka", "postgresql", "runs"} <= set(of_rate.parts)
    assert set(reference_idle.parts) == {"kafka", "postgresql", "reference"}
    assert of_rate.platform > idle.cores
    assert of_rate.reference > reference_idle.cores
    assert 0 < of_rate.p50 <= of_rate.p99 <= of_rate.p999


@pytest.mark.slow
def test_no_stage_is_far_below_its_upper_bound() -> None:
    found = stages.measure(events=8_000, commit_events=1_000)
    assert [stage.name for stage in found] == ["read", "decode", "transform", "transform and score", "write", "publish"]
    assert min(stage.rate / stage.ceiling for stage in found) > MIN_SHARE


@pytest.mark.slow
def test_growth_compares_a_grown_platform_with_a_new_one() -> None:
    found = growth.measure(Console(quiet=True), partitions=[0, 20], rows=[0, 10_000])
    assert set(found.tick) == {0, 20}
    assert set(found.commit_1000) == set(found.commit_10000) == {0, 10_000}
    assert max(each.ratio for each in (*found.tick.values(), *found.commit_1000.values())) < MAX_RATIO


@pytest.mark.slow
def test_views_and_pages_are_measured_on_summaries() -> None:
    found = summaries.measure(Console(quiet=True), predictions=20_000)
    assert found.customers > 10_000
    assert set(found.queries) == {*summaries.VIEWS, *summaries.PAGES}
    assert max(found.queries.values()) < 1
    assert 0 < found.follow[0] < found.follow[20_000]


@pytest.mark.slow
def test_data_preparation_training_and_the_scoring_of_a_file_are_measured() -> None:
    (found,) = batch.measure(Console(quiet=True), sizes=[CUSTOMERS])
    assert found.customers == CUSTOMERS
    assert found.training is not None
    assert min(found.preparation.seconds, found.training.seconds) > 0
    assert min(found.scoring_to_csv.seconds, found.scoring_to_parquet.seconds) > 0
    assert found.preparation.peak_mb < 1_000


@pytest.mark.slow
def test_a_large_file_is_measured_with_the_memory_of_each_process() -> None:
    found = large_file.measure(Console(quiet=True), customers=CUSTOMERS, engines=["python"])

    (engine,) = found.engines
    assert [*engine.steps] == [*large_file.STEPS]
    for step in engine.steps.values():
        assert [*step.peaks] == [large_file.RUN]
        assert 100 < step.peaks[large_file.RUN] < 1_000
    assert re.fullmatch("[0-9a-f]{64}", engine.model)


def test_a_large_file_is_written_in_blocks_without_a_repeated_customer(tmp_path: Path) -> None:
    large_file.write_large_file(tmp_path / "customers.csv", 250, block=100)

    found = load_customers(tmp_path / "customers.csv", BANK)
    assert (len(found.customers), len(found.quarantined)) == (250, 0)
    assert found.customers["RowNumber"].tolist() == [*range(1, 251)]


@pytest.fixture
def customers(tmp_path: Path) -> model.Data:
    """600 customers."""
    write_customers(generate_customers(600, seed=5), tmp_path / "customers.csv")
    return model.read(str(tmp_path / "customers.csv"), BANK)


def test_the_model_is_measured_on_any_customers_file(customers: model.Data) -> None:
    features, chosen = model.variants(customers, FEW_TREES)["null ages not imputed"]
    found = model.mean_figures(
        customers.churned,
        lambda seed: out_of_fold_probabilities(features, customers.churned, BANK, chosen, seed=seed),
        seeds=[0],
    )

    assert np.isnan(features).sum() == customers.null_age.sum() > 0
    assert found["roc_auc"] > 0.6
    assert found["f1_unseen"] <= found["f1"]
    test = model.on_the_test_split(customers, FEW_TREES)
    assert test["low"] < test["roc_auc"] < test["high"]


def test_a_search_within_a_fold_uses_neither_its_rows_nor_the_committed_hyperparameters(
    customers: model.Data,
) -> None:
    seen: list[int] = []

    def search(
        features: model.Features, churned: model.Labels, schema: CustomerSchema, **options: Any
    ) -> list[tuning.Trial]:
        assert options["first"] is None
        seen.append(len(churned))
        return tuning.tune(features, churned, schema, **options, limits=tuning.SearchLimits(trees_times_depth=30))

    found = model.nested(customers, trials=1, seeds=[0], search=search)

    assert len(seen) == FOLDS
    assert sum(seen) == (FOLDS - 1) * len(customers.churned)
    assert found["roc_auc"] > 0.6


def test_a_learning_curve_ends_with_the_model_of_all_rows(customers: model.Data) -> None:
    *fewer, (_, all_rows) = model.learning_curve(customers, FEW_TREES, seeds=[0]).items()

    assert len(fewer) == len(model.LEARNED_SHARES) - 1
    features, chosen = model.variants(customers, FEW_TREES)["as committed"]
    assert all_rows == model.mean_figures(
        customers.churned,
        lambda seed: out_of_fold_probabilities(features, customers.churned, BANK, chosen, seed=seed),
        seeds=[0],
    )
