"""A bundle is loaded as it was saved, or loading it is an error."""

import hashlib
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from churn_platform.features.cleaning import clean
from churn_platform.model_store import load_bundle, save_bundle
from churn_platform.scoring.bundle import (
    ENCODER,
    IMPUTER,
    MANIFEST,
    MODEL,
    SCALER,
    SCHEMA,
    ModelBundle,
    require_same_scores,
)
from churn_platform.scoring.costs import CallCosts
from churn_platform.scoring.exceptions import BundleFormatError, BundleIncompleteError, BundleTamperedError, SkewError
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, cleaned, inputs
from churn_platform_tests.scoring.bundles import bundle_of, small_bundle

PARTS = (MODEL, IMPUTER, ENCODER, SCALER, SCHEMA)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_bundle(small_bundle(), str(tmp_path))
    return tmp_path


def test_a_loaded_bundle_equals_the_saved_one_and_has_the_same_scores(saved: Path) -> None:
    columns = inputs(cleaned(200, seed=11))

    loaded = load_bundle(str(saved))
    by_cost = replace(small_bundle(), costs=CallCosts(call=5, customer=400, success_rate=0.25))
    save_bundle(by_cost, f"{saved}/by cost")

    assert loaded == small_bundle()
    assert load_bundle(f"{saved}/by cost") == by_cost
    np.testing.assert_array_equal(loaded.score(columns), small_bundle().score(columns), strict=True)


def test_scores_are_probabilities_and_do_not_depend_on_threads(saved: Path) -> None:
    bundle, columns = load_bundle(str(saved)), inputs(cleaned())

    scores = bundle.score(columns)

    assert scores.dtype == np.float32
    assert ((scores > 0) & (scores < 1)).all()
    np.testing.assert_array_equal(scores, bundle.score(columns, threads=2))


def test_no_rows_have_no_scores(saved: Path) -> None:
    none = {name: values[:0] for name, values in inputs(cleaned(5)).items()}

    assert load_bundle(str(saved)).score(none).shape == (0,)


def test_the_manifest_describes_the_bundle(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())

    assert manifest["features"][:2] == ["CreditScore", "Age"]
    assert manifest["threshold"] == small_bundle().threshold
    assert set(manifest["sha256"]) == set(PARTS)
    assert set(manifest["metrics"]) >= {"oof_roc_auc", "oof_f1", "oof_brier"}
    assert manifest["code_version"] == "test"


@pytest.mark.parametrize("part", PARTS)
def test_a_changed_part_is_an_error_that_names_it(saved: Path, part: str) -> None:
    (saved / part).write_bytes((saved / part).read_bytes() + b" ")

    with pytest.raises(BundleTamperedError, match=rf"{part} of the bundle at {saved} .* SHA-256 is [0-9a-f]{{64}}"):
        load_bundle(str(saved))


@pytest.mark.parametrize("part", [*PARTS, MANIFEST])
def test_a_missing_part_is_an_error_that_names_it(saved: Path, part: str) -> None:
    (saved / part).unlink()

    with pytest.raises(BundleIncompleteError, match=f"has no {part}"):
        load_bundle(str(saved))


def test_a_manifest_with_other_features_is_an_error(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps({**manifest, "features": manifest["features"][1:]}))

    with pytest.raises(BundleFormatError, match="was trained on the features Age"):
        load_bundle(str(saved))


def test_the_fingerprint_of_the_schema_is_the_hash_of_its_part(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())

    assert manifest["sha256"][SCHEMA] == load_bundle(str(saved)).schema.fingerprint == BANK.fingerprint


def test_a_bundle_of_another_schema_knows_its_schema_and_has_the_same_scores_when_loaded(tmp_path: Path) -> None:
    rows = clean(any_customers(SUBSCRIBERS, 400, seed=5), SUBSCRIBERS)
    bundle = bundle_of(rows, SUBSCRIBERS)
    save_bundle(bundle, str(tmp_path))

    loaded = load_bundle(str(tmp_path))

    assert (loaded, loaded.schema) == (bundle, SUBSCRIBERS)
    assert loaded.booster.feature_names == list(SUBSCRIBERS.feature_names)
    np.testing.assert_array_equal(loaded.score(inputs(rows, SUBSCRIBERS)), bundle.score(inputs(rows, SUBSCRIBERS)))


def test_a_schema_that_does_not_fit_the_other_parts_is_an_error() -> None:
    columns = tuple(each for each in BANK.columns if each.name != "Age")
    parts = small_bundle().to_parts()
    parts[SCHEMA] = replace(BANK, columns=columns).to_json().encode()
    manifest = json.loads(parts[MANIFEST])
    manifest["sha256"][SCHEMA] = hashlib.sha256(parts[SCHEMA]).hexdigest()

    with pytest.raises(BundleFormatError, match="scaler was fitted with another customer schema"):
        ModelBundle.from_parts({**parts, MANIFEST: json.dumps(manifest).encode()}, origin="here")


def test_loading_a_model_that_xgboost_cannot_read_is_an_error(tmp_path: Path) -> None:
    good = small_bundle()
    broken = ModelBundle(b"no model", good.transform, good.threshold, good.metrics, "test", good.data_hash)
    save_bundle(broken, str(tmp_path))

    with pytest.raises(BundleFormatError, match=r"cannot read the 8 bytes of model\.ubj"):
        load_bundle(str(tmp_path))


class _Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]  # a path, as touch wants it


def test_a_pickle_instead_of_the_model_is_an_error_and_is_not_run(tmp_path: Path) -> None:
    good, mark = small_bundle(), tmp_path / "ran"
    trap = pickle.dumps(_Trap(mark))
    bundle = ModelBundle(trap, good.transform, good.threshold, good.metrics, "test", good.data_hash)
    save_bundle(bundle, str(tmp_path / "b"))

    with pytest.raises(BundleFormatError, match=r"cannot read the \d+ bytes of model\.ubj"):
        load_bundle(str(tmp_path / "b"))

    assert not mark.exists()
    pickle.loads(trap)  # noqa: S301  the test's own pickle: shows that unpickling it would have been noticed
    assert mark.exists()


def test_a_bundle_that_lists_a_pickle_is_an_error(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / "model.pkl").write_bytes(pickle.dumps({}))
    manifest["sha256"]["model.pkl"] = hashlib.sha256(pickle.dumps({})).hexdigest()
    (saved / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleFormatError, match=r"does not know: model\.pkl"):
        load_bundle(str(saved))


def test_loading_and_scoring_unpickle_nothing(saved: Path) -> None:
    script = """
import pickle, sys

def refuse(event, arguments):
    if event == "pickle.find_class":
        raise SystemExit(f"unpickled {arguments}")

sys.addaudithook(refuse)
import numpy as np
from churn_platform.model_store import load_bundle
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.stream import batch_loop

bundle = load_bundle(sys.argv[1])
numbers = ("CreditScore", "Age", "Tenure", "Balance", "NumOfProducts", "HasCrCard", "IsActiveMember", "EstimatedSalary")
columns = {name: np.array([1.0]) for name in numbers}
columns["Geography"], columns["Gender"] = np.array(["Spain"], object), np.array(["Male"], object)
print(bundle.score(columns).shape)
pickle.loads(pickle.dumps(ModelBundle))
"""
    done = subprocess.run([sys.executable, "-c", script, str(saved)], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "(1,)"
    assert "unpickled ('churn_platform.scoring.bundle', 'ModelBundle')" in done.stderr  # the audit hook was active


def test_scoring_imports_nothing_that_is_slow_to_load(saved: Path) -> None:
    script = """
import sys
import numpy as np
from churn_platform.model_store import load_bundle

bundle = load_bundle(sys.argv[1])
numbers = ("CreditScore", "Age", "Tenure", "Balance", "NumOfProducts", "HasCrCard", "IsActiveMember", "EstimatedSalary")
columns = {name: np.array([np.nan]) for name in numbers}
columns["Geography"], columns["Gender"] = np.array(["Spain"], object), np.array(["Male"], object)
assert bundle.score(columns).shape == (1,)
print(*sorted({"dagster", "mlflow", "pandas", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script, str(saved)], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_prepared_features_of_other_customers_are_an_error() -> None:
    bundle, columns = small_bundle(), inputs(cleaned(100, seed=11))
    matrix, scores = bundle.transform.transform(columns), bundle.score(columns)

    require_same_scores(scores, bundle.score_features(matrix))

    with pytest.raises(SkewError, match=f"{len(scores)} raw rows and {len(scores) - 1} rows"):
        require_same_scores(scores, bundle.score_features(matrix[1:]))
    with pytest.raises(SkewError, match="have different scores"):
        require_same_scores(scores, bundle.score_features(matrix[::-1].copy()))
