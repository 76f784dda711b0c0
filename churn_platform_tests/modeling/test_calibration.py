"""A calibration is chosen only if it helps, and gives the same scores wherever it is applied."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from churn_platform.model_store import load_bundle, save_bundle
from churn_platform.modeling.calibration_choice import choose_calibration
from churn_platform.scoring.bundle import CALIBRATION
from churn_platform.scoring.calibration import (
    Calibration,
    Isotonic,
    Platt,
    calibration_from_json,
    calibration_to_json,
)
from churn_platform.scoring.exceptions import BundleFormatError, BundleTamperedError
from churn_platform_tests.features.customers import cleaned, inputs
from churn_platform_tests.scoring.bundles import small_bundle

CALIBRATIONS: list[Calibration] = [Platt(slope=0.7, intercept=-0.3), Isotonic((0.1, 0.4, 0.8), (0.02, 0.5, 0.93))]
CALIBRATED = np.random.default_rng(1).beta(1, 3, 8_000).astype(np.float32)
CHURNED = (np.random.default_rng(2).random(len(CALIBRATED)) < CALIBRATED).astype(np.int64)


def test_calibrated_probabilities_are_not_changed() -> None:
    choice = choose_calibration(CHURNED, CALIBRATED, seed=42)

    assert (choice.calibration, choice.name) == (None, "none")
    np.testing.assert_array_equal(choice.probabilities, CALIBRATED)
    assert set(choice.tried) == {"none", "platt", "isotonic"}


@pytest.mark.parametrize(
    "distorted", [CALIBRATED**2, np.sqrt(CALIBRATED), np.where(CALIBRATED < 0.3, 0.5 * CALIBRATED, CALIBRATED)]
)
def test_distorted_probabilities_are_calibrated(distorted: NDArray[np.float32]) -> None:
    choice = choose_calibration(CHURNED, distorted.astype(np.float32), seed=42)

    assert choice.calibration is not None
    after, before = choice.tried[choice.name], choice.tried["none"]
    assert after["brier"] < before["brier"]
    assert after["ece"] < before["ece"]


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_a_bundle_keeps_its_calibration_and_applies_it(tmp_path: Path, calibration: Calibration) -> None:
    bundle = replace(small_bundle(), calibration=calibration)
    save_bundle(bundle, str(tmp_path))
    columns = inputs(cleaned(300, seed=11))

    loaded = load_bundle(str(tmp_path))

    assert loaded == bundle
    np.testing.assert_array_equal(
        loaded.score(columns), calibration.apply(replace(bundle, calibration=None).score(columns))
    )
    (tmp_path / CALIBRATION).write_text(calibration_to_json(calibration) + " ")
    with pytest.raises(BundleTamperedError, match=r"calibration\.json"):
        load_bundle(str(tmp_path))


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_a_score_does_not_depend_on_the_size_of_the_batch(calibration: Calibration) -> None:
    bundle, columns = replace(small_bundle(), calibration=calibration), inputs(cleaned(301, seed=11))
    at_once = bundle.score(columns)

    one_by_one = [
        bundle.score({name: values[n : n + 1] for name, values in columns.items()}) for n in range(len(at_once))
    ]

    np.testing.assert_array_equal(np.concatenate(one_by_one), at_once)
    np.testing.assert_array_equal(bundle.score_features(bundle.transform.transform(columns), threads=2), at_once)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_calibration_never_changes_the_order(calibration: Calibration) -> None:
    assert (np.diff(calibration.apply(np.sort(CALIBRATED))) >= 0).all()
    assert calibration_from_json(calibration_to_json(calibration)) == calibration


def test_an_unknown_method_is_an_error(tmp_path: Path) -> None:
    bundle = replace(small_bundle(), calibration=CALIBRATIONS[0])
    parts = bundle.to_parts()
    with pytest.raises(ValueError, match="method 'spline', expected platt or isotonic"):
        calibration_from_json(parts[CALIBRATION].decode().replace("platt", "spline"))
    save_bundle(bundle, str(tmp_path))
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(BundleFormatError):
        load_bundle(str(tmp_path))
