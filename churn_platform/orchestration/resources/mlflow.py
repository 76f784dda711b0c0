"""MLflow as Dagster resources: the registry, and the run that a training writes to. Imported when first used."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

import dagster as dg

from churn_platform.errors import PlatformError
from churn_platform.settings import PROJECT_ROOT, settings

if TYPE_CHECKING:
    from dagster_mlflow.resources import MlFlow
    from mlflow import MlflowClient

CHAMPION_ALIAS = "champion"
CHALLENGER_ALIAS = "challenger"
FOLLOWED_TAG = "champion_set_by_platform"  # the version that we last pointed the alias at: another one was set by hand
DELETED_STATE = "Current state is deleted"  # what MLflow says of a run that was deleted, and may be restored
SKIPPED = "Skipped: model_versions has this number of another model."
LOST_REMEDY = (
    "The stream goes on: it reads model_versions and the bundle, not MLflow. Restore MLflow's database, or train "
    "again: that registers a new version."
)


class MlflowError(PlatformError):
    """MLflow refuses something, or does not answer."""


class MlflowLostError(MlflowError):
    """A run or a version that MLflow has no more, or has of another run under the same number."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of the registered model and the run that trained it: the number alone is given again."""

    version: int
    run_id: str

    def __str__(self) -> str:
        """Both in one text."""
        return f"{self.version} of run {self.run_id}"


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise MLflow's exceptions as errors that say what was asked for, whether it is lost, and what to do.

    Args:
        what: that MLflow is asked for, such as "run 1f2e".
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        said = str(error).splitlines()[0]
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or DELETED_STATE in said:
            raise MlflowLostError(f"MLflow has no {what} any more: {said}", remedy=LOST_REMEDY) from error
        raise MlflowError(
            f"MLflow did not do what was asked of it for {what}: {said}",
            remedy="Check that it is up ('churn status') and that MLFLOW_TRACKING_URI names it, then run this again.",
        ) from error


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
        """The page of a run in MLflow's UI.

        Raises:
            MlflowLostError: MLflow has no such run any more.
            MlflowError: it does not answer.
        """
        with _explained(f"run {run_id}"):
            experiment = self.client().get_run(run_id).info.experiment_id
        return f"{settings().tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def version_url(self, version: int) -> str:
        """The page of a version of the registered model in MLflow's UI."""
        return version_url(version)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Add figures to a run, ended or not.

        Raises:
            MlflowLostError: MLflow has no such run any more, or it was deleted.
            MlflowError: it does not answer.
        """
        client = self.client()
        with _explained(f"run {run_id}"):
            for name, value in metrics.items():
                client.log_metric(run_id, name, value)

    def log_evaluation(self, run_id: str, pictures: Mapping[str, str], tables: dict[str, object]) -> None:
        """Add pictures (name -> SVG) and tables to a run, ended or not.

        Raises:
            MlflowLostError: MLflow has no such run any more.
            MlflowError: it does not answer.
        """
        client = self.client()
        with _explained(f"run {run_id}"):
            for name, svg in pictures.items():
                client.log_text(run_id, svg, f"evaluation/{name}.svg")
            client.log_dict(run_id, tables, "evaluation/tables.json")

    @contextmanager
    def numbered_above(self, newest: int, run_id: str) -> Iterator[None]:
        """Let the version that is registered inside have a greater number than `newest`.

        A registered model that was deleted and created again counts from 1, and model_versions has those numbers of
        other models. Numbers are skipped by versions that are deleted again.

        Args:
            newest: the greatest number in model_versions.
            run_id: of the training; a version has to have one.

        Raises:
            MlflowError: MLflow refuses, or does not answer.
        """
        client, name, skipped = self.client(), settings().mlflow.model, list[str]()
        with _explained(f"registered model {name}"):
            latest = client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number DESC"])
            number = int(latest[0].version) if latest else 0
            if number < newest:
                self._create_missing_model(client, name)
            while number < newest:
                source = f"{client.get_run(run_id).info.artifact_uri}/none"
                made = client.create_model_version(name, source, run_id, description=SKIPPED, await_creation_for=0)
                skipped.append(str(made.version))
                number = int(made.version)
        try:
            yield
        finally:
            with _explained(f"registered model {name}"):
                for version in skipped:
                    client.delete_model_version(name, version)

    def _create_missing_model(self, client: MlflowClient, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def champion_set_by_hand(self) -> RegisteredVersion | None:
        """The version that the alias `champion` was moved to by somebody else than `follow_champion`, if it was.

        Raises:
            MlflowError: MLflow does not answer.
        """
        client, name = self.client(), settings().mlflow.model
        try:
            with _explained(f"registered model {name}"):
                model = client.get_registered_model(name)
                alias = model.aliases.get(CHAMPION_ALIAS)
                if alias is None:
                    return None
                chosen = client.get_model_version(name, str(alias))
        except MlflowLostError:
            return None
        found = RegisteredVersion(int(alias), chosen.run_id or "")
        return None if model.tags.get(FOLLOWED_TAG) == str(found) else found

    def follow_champion(self, version: int, run_id: str) -> None:
        """Point the alias `champion` at the version that model_versions names, if MLflow has it from that very run.

        Otherwise the alias is taken away: it must not name a version that is not champion.

        Raises:
            MlflowLostError: MLflow has no such version any more, or one of another run under its number.
            MlflowError: it does not answer.
        """
        client, name = self.client(), settings().mlflow.model
        try:
            self._require_version(client, version, run_id)
        except MlflowLostError:
            self._drop_alias(client, name, CHAMPION_ALIAS)
            raise
        with _explained(f"version {version} of model {name}"):
            client.set_registered_model_alias(name, CHAMPION_ALIAS, str(version))
            client.set_registered_model_tag(name, FOLLOWED_TAG, str(RegisteredVersion(version, run_id)))

    def note_decision(self, version: int, run_id: str, *, promoted: bool, reason: str) -> None:
        """Tag a trained version with what was decided; the alias `challenger` is at the last one refused.

        Raises:
            MlflowLostError: MLflow has no such version any more, or one of another run under its number.
            MlflowError: it does not answer.
        """
        client, name = self.client(), settings().mlflow.model
        self._require_version(client, version, run_id)
        with _explained(f"version {version} of model {name}"):
            client.set_model_version_tag(name, str(version), "decision", "promoted" if promoted else "refused")
            client.set_model_version_tag(name, str(version), "decision_reason", reason)
            if not promoted:
                client.set_registered_model_alias(name, CHALLENGER_ALIAS, str(version))
        if promoted:
            self._drop_alias(client, name, CHALLENGER_ALIAS)

    def _require_version(self, client: MlflowClient, version: int, run_id: str) -> None:
        """Make sure that MLflow's version of this number is the one that this run trained."""
        name = settings().mlflow.model
        with _explained(f"version {version} of model {name}"):
            found = client.get_model_version(name, str(version))
        if found.run_id != run_id:
            raise MlflowLostError(
                f"Version {version} of model {name} is of run {found.run_id or 'none'} in MLflow, of run {run_id} in "
                f"model_versions: it is another model. The registry was replaced.",
                remedy=LOST_REMEDY,
            )

    def _drop_alias(self, client: MlflowClient, name: str, alias: str) -> None:
        with suppress(MlflowLostError), _explained(f"registered model {name}"):
            if alias in client.get_registered_model(name).aliases:
                client.delete_registered_model_alias(name, alias)


def version_url(version: int) -> str:
    """The page of a version of the registered model in MLflow's UI. It asks no server.

    Raises:
        SettingsError: no server is configured and the embedded one is not up.
    """
    return f"{settings().tracking_uri.rstrip('/')}/#/models/{settings().mlflow.model}/versions/{version}"


@dg.resource(description="The MLflow run of this Dagster run, by dagster-mlflow: MLflow's functions, the run active.")
def mlflow_run(context: dg.InitResourceContext) -> Iterator[MlFlow]:
    """dagster-mlflow's resource, set up from the settings and imported only where a training needs it (7 s).

    Within one Dagster run every step gets the same MLflow run. Write to it inside `ending_run()`.
    """
    config = {"mlflow_tracking_uri": settings().tracking_uri, "experiment_name": settings().mlflow.experiment}
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
    if settings().platform.revision:
        return settings().platform.revision
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
