"""MLflow as Dagster resources: the registry, and the run that a training writes to. Imported when first used."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

import dagster as dg

from churn_platform.settings import PROJECT_ROOT, settings

if TYPE_CHECKING:
    from dagster_mlflow.resources import MlFlow
    from mlflow import MlflowClient

CHAMPION_ALIAS = "champion"
CHALLENGER_ALIAS = "challenger"
FOLLOWED_TAG = "champion_set_by_platform"  # the version that we last pointed the alias at: another one was set by hand


class MlflowRegistry(dg.ConfigurableResource["MlflowRegistry"]):
    """The tracking server and its registry of models, where the settings say. It holds no secret of its own."""

    def client(self) -> MlflowClient:
        """A client of the tracking server.

        Raises:
            SettingsError: no server is configured and the embedded one is not up.
        """
        from mlflow import MlflowClient  # 5 s to import: only who speaks to MLflow pays

        # the registry is named too: MLFLOW_REGISTRY_URI in the environment would lead to another one
        return MlflowClient(tracking_uri=settings().tracking_uri, registry_uri=settings().tracking_uri)

    def run_url(self, run_id: str) -> str:
        """The page of a run in MLflow's UI."""
        experiment = self.client().get_run(run_id).info.experiment_id
        return f"{settings().tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def version_url(self, version: int) -> str:
        """The page of a version of the registered model in MLflow's UI."""
        return version_url(version)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Add figures to a run, ended or not."""
        client = self.client()
        for name, value in metrics.items():
            client.log_metric(run_id, name, value)

    def log_evaluation(self, run_id: str, pictures: Mapping[str, str], tables: dict[str, object]) -> None:
        """Add pictures (name -> SVG) and tables to a run, ended or not."""
        client = self.client()
        for name, svg in pictures.items():
            client.log_text(run_id, svg, f"evaluation/{name}.svg")
        client.log_dict(run_id, tables, "evaluation/tables.json")

    def champion_set_by_hand(self) -> int | None:
        """The version that the alias `champion` was moved to by somebody else than `follow_champion`, if it was."""
        model = self.client().get_registered_model(settings().mlflow_model)
        alias = model.aliases.get(CHAMPION_ALIAS)
        return None if alias is None or str(alias) == model.tags.get(FOLLOWED_TAG) else int(alias)

    def follow_champion(self, version: int) -> None:
        """Point the alias `champion` at the version that model_versions names."""
        client, name = self.client(), settings().mlflow_model
        client.set_registered_model_alias(name, CHAMPION_ALIAS, str(version))
        client.set_registered_model_tag(name, FOLLOWED_TAG, str(version))

    def note_decision(self, version: int, *, promoted: bool, reason: str) -> None:
        """Tag a trained version with what was decided; the alias `challenger` is at the last one refused."""
        client, name = self.client(), settings().mlflow_model
        client.set_model_version_tag(name, str(version), "decision", "promoted" if promoted else "refused")
        client.set_model_version_tag(name, str(version), "decision_reason", reason)
        if not promoted:
            client.set_registered_model_alias(name, CHALLENGER_ALIAS, str(version))
        elif CHALLENGER_ALIAS in client.get_registered_model(name).aliases:
            client.delete_registered_model_alias(name, CHALLENGER_ALIAS)


def version_url(version: int) -> str:
    """The page of a version of the registered model in MLflow's UI. It asks no server.

    Raises:
        SettingsError: no server is configured and the embedded one is not up.
    """
    return f"{settings().tracking_uri.rstrip('/')}/#/models/{settings().mlflow_model}/versions/{version}"


@dg.resource(description="The MLflow run of this Dagster run, by dagster-mlflow: MLflow's functions, the run active.")
def mlflow_run(context: dg.InitResourceContext) -> Iterator[MlFlow]:
    """dagster-mlflow's resource, set up from the settings and imported only where a training needs it (7 s).

    Within one Dagster run every step gets the same MLflow run. Write to it inside `ending_run()`.
    """
    config = {"mlflow_tracking_uri": settings().tracking_uri, "experiment_name": settings().mlflow_experiment}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is called beta, and calls Dagster by names of old: no news to who trains
        from dagster_mlflow.resources import MlFlow

        run = MlFlow(context.replace_config(config))  # type: ignore[no-untyped-call]  # the library is not typed
    yield run


@contextmanager
def ending_run() -> Iterator[None]:
    """End the active MLflow run as what happens inside does: FINISHED, or FAILED on an error.

    dagster-mlflow would leave a failed run RUNNING: a step's error does not reach its resources.
    """
    import mlflow

    try:
        yield
    except BaseException:
        mlflow.end_run("FAILED")
        raise
    mlflow.end_run()


def code_version() -> str:
    """The git commit of the running code, "-dirty" when files differ from it; without git, the package's version.

    An image holds no git: it is built with its revision.
    """
    if settings().churn_revision:
        return settings().churn_revision
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return f"churn-platform {installed_version('churn-platform')}"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607  the user's own git, wherever it is
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
