"""Out-of-fold metrics of the default hyperparameters on the bank's own file, which is not in the repository."""

from benchmarks import model
from churn_platform.modeling.training import Hyperparameters, out_of_fold_probabilities
from churn_platform_tests.features.customers import BANK
from churn_platform_tests.schema.bank_file import BANK_FILE, needs_bank_file

SEEDS = range(5)
AT_LEAST = {"roc_auc": 0.865, "f1": 0.628}
AT_MOST = {"brier": 0.1018, "ece": 0.015}


@needs_bank_file
def test_the_default_hyperparameters_have_the_documented_metrics() -> None:
    data = model.read(str(BANK_FILE), BANK)

    found = model.mean_figures(
        data.churned,
        lambda seed: out_of_fold_probabilities(data.features, data.churned, BANK, Hyperparameters(), seed=seed),
        seeds=SEEDS,
    )

    assert {name: found[name] for name in AT_LEAST if found[name] < AT_LEAST[name]} == {}
    assert {name: found[name] for name in AT_MOST if found[name] > AT_MOST[name]} == {}
