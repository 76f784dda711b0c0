"""Drift: references, counts per bin, and verdicts that exclude chance."""

import json
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from churn_platform.features.columns import Columns, columns_of
from churn_platform.monitoring.drift import (
    QUANTILE_BINS,
    FeatureReference,
    ObservedFeature,
    Reference,
    Thresholds,
    count_features,
    measure_drift,
    merge,
    monitored,
)
from churn_platform.monitoring.verdicts import SCORE, Verdict
from churn_platform.schema.columns import Column, Kind
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, cleaned

THRESHOLDS = Thresholds(shifted=0.1, far=0.25, min_rows=500)


def columns(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return generated customers, and scores that do not depend on them."""
    scores = np.random.default_rng(seed).beta(1, 4, rows + 100)
    return {**columns_of(cleaned(rows + 100, seed), BANK.inputs), SCORE: scores}


def cut(found: Columns, rows: int) -> dict[str, np.ndarray]:
    """Return the first rows."""
    return {name: values[:rows] for name, values in found.items()}


@pytest.fixture(scope="module")
def reference() -> Reference:
    """The reference of 8,000 customers."""
    return Reference.of(cut(columns(8_000, 1), 8_000), BANK)


def test_a_reference_has_ten_bins_of_a_number_and_one_for_each_of_few_values(reference: Reference) -> None:
    bins = {name: len(reference.features[name].counts) - 1 for name in monitored(BANK)}  # without the bin of nulls

    assert bins[SCORE] == bins["EstimatedSalary"] == QUANTILE_BINS
    assert bins["Balance"] < QUANTILE_BINS  # a third is 0
    assert (bins["Tenure"], bins["NumOfProducts"], bins["HasCrCard"]) == (11, 4, 2)
    assert reference.features["Geography"].labels == ["France", "Germany", "Spain", "other", "missing"]
    assert all(sum(feature.counts) == 8_000 for feature in reference.features.values())
    assert all(len(feature.labels) == len(feature.counts) for feature in reference.features.values())


def test_a_reference_is_the_same_after_a_round_trip_through_json(reference: Reference) -> None:
    assert Reference.from_json(json.loads(json.dumps(reference.to_json()))) == reference


def test_the_rows_of_the_reference_have_no_drift(reference: Reference) -> None:
    for name, observed in count_features(reference, cut(columns(8_000, 1), 8_000)).items():
        found = measure_drift(reference.features[name], observed)
        assert found.psi == pytest.approx(0)
        assert found.p_value == pytest.approx(1)
        assert observed.outside == 0


def test_the_psi_follows_its_formula_and_the_p_value_is_scipys(reference: Reference) -> None:
    feature = reference.features["NumOfProducts"]
    observed = ObservedFeature((100, 300, 80, 20, 0), 0)

    found = measure_drift(feature, observed)

    p, q = (np.array(counts[:4]) + 0.5 for counts in (feature.counts, observed.counts))
    p, q = p / p.sum(), q / q.sum()
    assert found.psi == pytest.approx(float(((q - p) * np.log(q / p)).sum()))
    table = np.array([feature.counts[:4], observed.counts[:4]])
    assert found.p_value == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)


def test_other_customers_of_the_same_distribution_are_stable_at_every_size(reference: Reference) -> None:
    for rows in (500, 2_000, 20_000):
        for name, observed in count_features(reference, cut(columns(rows, 9), rows)).items():
            assert measure_drift(reference.features[name], observed).verdict(THRESHOLDS) is Verdict.STABLE, (name, rows)


@pytest.mark.parametrize(("years", "verdict"), [(0, Verdict.STABLE), (3, Verdict.SHIFTED), (10, Verdict.FAR)])
def test_the_older_the_customers_the_stronger_the_verdict(reference: Reference, years: int, verdict: Verdict) -> None:
    now = cut(columns(3_000, 9), 3_000)

    found = count_features(reference, {**now, "Age": now["Age"] + years})

    assert measure_drift(reference.features["Age"], found["Age"]).verdict(THRESHOLDS) is verdict


def test_few_rows_have_no_verdict_however_far_off(reference: Reference) -> None:
    now = cut(columns(499, 9), 499)

    found = count_features(reference, {**now, "Age": now["Age"] + 40})

    assert measure_drift(reference.features["Age"], found["Age"]).verdict(THRESHOLDS) is Verdict.TOO_FEW


def test_nulls_and_values_unknown_to_the_training_data_are_counted(reference: Reference) -> None:
    now = cut(columns(1_000, 9), 1_000)
    age, geography = now["Age"].astype(np.float64), now["Geography"].copy()
    age[:250], geography[:100], geography[100:150] = np.nan, "Atlantis", None

    found = count_features(reference, {**now, "Age": age, "Geography": geography, "Balance": now["Balance"] - 1e9})

    assert found["Age"].missing_rate >= 0.25
    assert found["Geography"].counts[-2:] == (100, 50)
    assert found["Geography"].out_of_range_rate == 0.1
    assert found["Balance"].out_of_range_rate == 1.0


def random_columns(schema: CustomerSchema, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Random customers of a schema, and scores."""
    scores = np.random.default_rng(seed).beta(1, 4, rows)
    return {**columns_of(any_customers(schema, rows, seed), schema.inputs), SCORE: scores}


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS], ids=lambda schema: schema.name)
def test_every_column_of_any_schema_is_monitored(schema: CustomerSchema) -> None:
    rows = random_columns(schema, 4_000, 1)
    reference = Reference.of(rows, schema)

    found = count_features(reference, random_columns(schema, 2_000, 2))

    assert tuple(found) == monitored(schema) == (*schema.inputs, SCORE)
    assert Reference.from_json(json.loads(json.dumps(reference.to_json()))) == reference
    for name, observed in found.items():
        feature = reference.features[name]
        assert (sum(feature.counts), observed.rows) == (4_000, 2_000)
        assert len(feature.labels) == len(feature.counts)
        assert measure_drift(feature, observed).verdict(THRESHOLDS) is Verdict.STABLE, name
        assert observed.out_of_range_rate < 0.01


def one_column(column: Column) -> CustomerSchema:
    return CustomerSchema(
        name="one",
        id="id",
        target="left",
        columns=(Column(name="id", kind="whole"), Column(name="left", kind="flag"), column),
    )


def reference_of(column: Column, values: np.ndarray) -> FeatureReference:
    rows = {column.name: values, SCORE: np.linspace(0, 1, len(values))}
    return Reference.of(rows, one_column(column)).features[column.name]


def test_dates_have_bins_of_days_and_drift_with_time() -> None:
    column = Column(name="since", kind="date", missing="median", since=date(2020, 1, 1), transforms=("days_since",))
    days = np.datetime64("2024-01-01", "s") + np.arange(1_000).astype("timedelta64[D]")
    days[::10] = np.datetime64("NaT")

    feature = reference_of(column, days)

    assert feature.labels[0].startswith("below 2024-04-")
    assert feature.missing_rate == 0.1
    assert feature.count(days).tolist() == list(feature.counts)
    assert feature.count_outside(days) == 0
    later = days[~np.isnat(days)].astype("datetime64[D]") + np.timedelta64(900, "D")
    assert feature.count_outside(later) == 810
    now = ObservedFeature(tuple(feature.count(later).tolist()), 0)
    assert measure_drift(feature, now).verdict(THRESHOLDS) is Verdict.FAR


def test_categories_that_a_schema_does_not_list_are_one_bin_and_known_if_training_had_some() -> None:
    column = Column(name="plan", kind="category", categories=("Basic", "Premium"), unknown="other", segment=True)
    values = np.array(["Basic", "Premium", "Old", "Older", None] * 20, object)

    with_others = reference_of(column, values)
    without = reference_of(column, np.array(["Basic", "Premium"] * 20, object))

    assert with_others.labels == ["Basic", "Premium", "other", "missing"]
    assert with_others.counts == (20, 20, 40, 20)
    assert with_others.count_outside(values) == 0
    assert without.count_outside(values) == 40


@pytest.mark.parametrize("kind", ["number", "date", "category"])
def test_a_column_without_any_value_has_a_reference(kind: Kind) -> None:
    column = Column(name="empty", kind=kind, categories=("a", "b"), segment=kind == "category", summary=True)
    values = {
        "number": np.full(10, np.nan),
        "date": np.full(10, np.datetime64("NaT", "s")),
        "category": np.full(10, None, object),
    }[kind]

    feature = reference_of(column, values)

    assert feature.missing_rate == 1.0
    assert feature.count(values)[-1] == 10
    assert len(feature.labels) == len(feature.counts)


def test_a_column_that_joined_or_left_the_schema_is_left_out(reference: Reference) -> None:
    now = cut(columns(1_000, 9), 1_000)
    del now["Balance"]

    found = count_features(reference, {**now, "new": np.zeros(1_000)})

    assert set(monitored(BANK)) - set(found) == {"Balance"}
    assert "new" not in found


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=2), st.floats(1, 100))
def test_merging_weights_each_hour_by_the_predictions_that_it_represents(rows: list[int], weight: float) -> None:
    sampled, counted = ObservedFeature((rows[0], 0), 0, weight), ObservedFeature((0, rows[1]), 0)

    day = merge([sampled, counted])

    assert abs(day.rows - sum(rows)) <= 1
    if sum(rows):
        assert day.counts[0] == pytest.approx(sum(rows) * rows[0] * weight / (rows[0] * weight + rows[1]), abs=0.51)
        assert day.rows * day.weight == pytest.approx(rows[0] * weight + rows[1], rel=0.01, abs=weight)
