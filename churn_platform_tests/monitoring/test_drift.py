"""Drift: references, counts per bin, and verdicts that exclude chance."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from churn_platform.features.columns import Columns, columns_of
from churn_platform.monitoring.drift import (
    MONITORED,
    QUANTILE_BINS,
    SCORE,
    ObservedFeature,
    Reference,
    Thresholds,
    Verdict,
    count_features,
    measure_drift,
    merge,
)
from churn_platform_tests.features.customers import cleaned

THRESHOLDS = Thresholds(shifted=0.1, far=0.25, min_rows=500)


def columns(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return generated customers, and scores that do not depend on them."""
    scores = np.random.default_rng(seed).beta(1, 4, rows + 100)
    return {**columns_of(cleaned(rows + 100, seed)), SCORE: scores}


def cut(found: Columns, rows: int) -> dict[str, np.ndarray]:
    """Return the first rows."""
    return {name: values[:rows] for name, values in found.items()}


@pytest.fixture(scope="module")
def reference() -> Reference:
    """The reference of 8,000 customers."""
    return Reference.of(cut(columns(8_000, 1), 8_000))


def test_a_reference_has_ten_bins_of_a_number_and_one_for_each_of_few_values(reference: Reference) -> None:
    bins = {name: len(reference.features[name].counts) - 1 for name in MONITORED}  # without the bin of nulls

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


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=2), st.floats(1, 100))
def test_merging_weights_each_hour_by_the_predictions_that_it_represents(rows: list[int], weight: float) -> None:
    sampled, counted = ObservedFeature((rows[0], 0), 0, weight), ObservedFeature((0, rows[1]), 0)

    day = merge([sampled, counted])

    assert abs(day.rows - sum(rows)) <= 1
    if sum(rows):
        assert day.counts[0] == pytest.approx(sum(rows) * rows[0] * weight / (rows[0] * weight + rows[1]), abs=0.51)
        assert day.rows * day.weight == pytest.approx(rows[0] * weight + rows[1], rel=0.01, abs=weight)
