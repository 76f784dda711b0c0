"""MLflow as Dagster resources: the registry, and the run that a training writes to. MLflow is imported lazily."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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
FOLLOWED_TAG = "champion_set_by_platform"  # version that the platform set the alias to; any other was set by hand
DELETED_STATE = "Current state is deleted"  # part of MLflow's message about a deleted run, which can be restored
# Codes of MLflow's client for a server that does not answer, is overloaded or fails.
OUTAGE_CODES = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED"})
SKIPPED = "Skipped: model_versions has another model with this number."
LOST_REMEDY = (
    "The stream is not affected: it reads model_versions and the bundle, not MLflow. Restore MLflow's database, or "
    "train again to register a new version."
)


class MlflowError(PlatformError):
    """MLflow refuses a request, or does not answer."""


class MlflowLostError(MlflowError):
    """MLflow no longer has a run or a version, or has a version of another run under its number."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of the registered model and the run that trained it. A new registry uses the same numbers again."""

    version: int
    run_id: str

    def __str__(self) -> str:
        """Return both as text."""
        return f"{self.version} of run {self.run_id}"


@contextmanager
def _translate_errors(what: str) -> Iterator[None]:
    """Translate MLflow's exceptions into errors with a remedy.

    Args:
        what: the object of the request, such as "run 1f2e".
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        message = str(error).splitlines()[0]
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or DELETED_STATE in message:
            raise MlflowLostError(f"MLflow no longer has {what}: {message}", remedy=LOST_REMEDY) from error
        raise MlflowError(
            f"MLflow failed on a request for {what}: {message}",
            remedy="Check that MLflow is running ('churn status') and that MLFLOW_TRACKING_URI is right; try again.",
        ) from error


def is_outage(error: BaseException) -> bool:
    """Return whether MLflow's client or this module reports that the server does not answer, or fails."""
    if "mlflow.exceptions" not in sys.modules:  # importing it takes seconds, and it has not raised this error
        return False
    from mlflow.exceptions import MlflowException

    cause = error.__cause__ if isinstance(error, MlflowError) else error
    return isinstance(cause, MlflowException) and cause.error_code in OUTAGE_CODES


class MlflowRegistry(dg.ConfigurableResource["MlflowRegistry"]):
    """The tracking server of the settings and its model registry. The resource stores no secrets."""

    def client(self) -> MlflowClient:
        """Return a client of the tracking server.

        Raises:
            SettingsError: no server is configured and the embedded one is not running.
        """
        from mlflow import MlflowClient  # 5 s to import

        # the registry's address is explicit, because MLFLOW_REGISTRY_URI in the environment would override it
        return MlflowClient(tracking_uri=settings().tracking_uri, registry_uri=settings().tracking_uri)

    def run_url(self, run_id: str) -> str:
        """Return the page of a run in MLflow's UI.

        Raises:
            MlflowLostError: MLflow no longer has this run.
            MlflowError: MLflow does not answer.
        """
        with _translate_errors(f"run {run_id}"):
            experiment = self.client().get_run(run_id).info.experiment_id
        return f"{settings().tracking_uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def version_url(self, version: int) -> str:
        """Return the page of a version of the registered model in MLflow's UI."""
        return version_url(version)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Add metrics to a run, which may have ended.

        Raises:
            MlflowLostError: MLflow no longer has this run, or it was deleted.
            MlflowError: MLflow does not answer.
        """
        client = self.client()
        with _translate_errors(f"run {run_id}"):
            for name, value in metrics.items():
                client.log_metric(run_id, name, value)

    def log_evaluation(self, run_id: str, charts: Mapping[str, str], tables: dict[str, object]) -> None:
        """Add charts (name -> SVG) and tables to a run, which may have ended.

        Raises:
            MlflowLostError: MLflow no longer has this run.
            MlflowError: MLflow does not answer.
        """
        client = self.client()
        with _translate_errors(f"run {run_id}"):
            for name, svg in charts.items():
                client.log_text(run_id, svg, f"evaluation/{name}.svg")
            client.log_dict(run_id, tables, "evaluation/tables.json")

    @contextmanager
    def numbered_above(self, newest: int, run_id: str) -> Iterator[None]:
        """Ensure that a version registered inside the block has a higher number than `newest`.

        A registered model that was deleted and created again counts from 1, and model_versions has other models with
        these numbers. Numbers are skipped by creating versions and deleting them afterwards.

        Args:
            newest: the highest number in model_versions.
            run_id: run of the training, because a version must have one.

        Raises:
            MlflowError: MLflow refuses, or does not answer.
        """
        client, name, skipped = self.client(), settings().mlflow.model, list[str]()
        with _translate_errors(f"registered model {name}"):
            latest = client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number DESC"])
            number = int(latest[0].version) if latest else 0
            if number < newest:
                self._create_missing_model(client, name)
            while number < newest:
                source = f"{client.get_run(run_id).info.artifact_uri}/none"
                created = client.create_model_version(name, source, run_id, description=SKIPPED, await_creation_for=0)
                skipped.append(str(created.version))
                number = int(created.version)
        try:
            yield
        finally:
            with _translate_errors(f"registered model {name}"):
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
        """Return the version that the alias `champion` was moved to by hand, or None if `follow_champion` set it last.

        Raises:
            MlflowError: MLflow does not answer.
        """
        client, name = self.client(), settings().mlflow.model
        try:
            with _translate_errors(f"registered model {name}"):
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
        """Set the alias `champion` to the champion of model_versions, if MLflow has this version of this run.

        Otherwise delete the alias: it must not point to a version that is not champion.

        Raises:
            MlflowLostError: MLflow no longer has this version, or has one of another run under its number.
            MlflowError: MLflow does not answer.
        """
        client, name = self.client(), settings().mlflow.model
        try:
            self._require_version(client, version, run_id)
        except MlflowLostError:
            self._drop_alias(client, name, CHAMPION_ALIAS)
            raise
        with _translate_errors(f"version {version} of model {name}"):
            client.set_registered_model_alias(name, CHAMPION_ALIAS, str(version))
            client.set_registered_model_tag(name, FOLLOWED_TAG, str(RegisteredVersion(version, run_id)))

    def record_decision(self, version: int, run_id: str, *, promoted: bool, reason: str) -> None:
        """Tag a trained version with the decision. The alias `challenger` points to the last rejected one.

        Raises:
            MlflowLostError: MLflow no longer has this version, or has one of another run under its number.
            MlflowError: MLflow does not answer.
        """
        client, name = self.client(), settings().mlflow.model
        self._require_version(client, version, run_id)
        with _translate_errors(f"version {version} of model {name}"):
            client.set_model_version_tag(name, str(version), "decision", "promoted" if promoted else "rejected")
            client.set_model_version_tag(name, str(version), "decision_reason", reason)
            if not promoted:
                client.set_registered_model_alias(name, CHALLENGER_ALIAS, str(version))
        if promoted:
            self._drop_alias(client, name, CHALLENGER_ALIAS)

    def _require_version(self, client: MlflowClient, version: int, run_id: str) -> None:
        """Check that MLflow's version with this number is of this run."""
        name = settings().mlflow.model
        with _translate_errors(f"version {version} of model {name}"):
            found = client.get_model_version(name, str(version))
        if found.run_id != run_id:
            raise MlflowLostError(
                f"Version {version} of model {name} belongs to run {found.run_id or 'none'} in MLflow, but to run "
                f"{run_id} in model_versions: they are different models. The registry was replaced.",
                remedy=LOST_REMEDY,
            )

    def _drop_alias(self, client: MlflowClient, name: str, alias: str) -> None:
        with suppress(MlflowLostError), _translate_errors(f"registered model {name}"):
            if alias in client.get_registered_model(name).aliases:
                client.delete_registered_model_alias(name, alias)


def version_url(version: int) -> str:
    """Return the page of a version of the registered model in MLflow's UI, without a request to MLflow.

    Raises:
        SettingsError: no server is configured and the embedded one is not running.
    """
    return f"{settings().tracking_uri.rstrip('/')}/#/models/{settings().mlflow.model}/versions/{version}"


@dg.resource(
    description="The MLflow run of this Dagster run, through dagster-mlflow: MLflow's functions with this run active."
)
def mlflow_run(context: dg.InitResourceContext) -> Iterator[MlFlow]:
    """Provide dagster-mlflow's resource, configured from the settings. Importing it takes 7 s, so only trainings do.

    All steps of one Dagster run have the same MLflow run. Write to it inside `ending_run()`.
    """
    config = {"mlflow_tracking_uri": settings().tracking_uri, "experiment_name": settings().mlflow.experiment}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # it is beta and uses deprecated names of Dagster: a user cannot do anything about that
        from dagster_mlflow.resources import MlFlow

        run = MlFlow(context.replace_config(config))  # type: ignore[no-untyped-call]  # the library is untyped
    yield run


@contextmanager
def ending_run() -> Iterator[None]:
    """End the active MLflow run after the block: as FINISHED, or as FAILED after an error.

    dagster-mlflow would leave a failed run RUNNING, because an error of a step does not reach its resources. If the
    step runs again, it continues that MLflow run.
    """
    import mlflow

    if mlflow.active_run() is None and (ended := mlflow.last_active_run()) is not None:
        mlflow.start_run(run_id=ended.info.run_id)
    with ExitStack() as failed:  # a canceled run must not stay RUNNING either
        failed.callback(mlflow.end_run, "FAILED")
        yield
        failed.pop_all()
    mlflow.end_run()


def code_version() -> str:
    """Return the git commit of the running code, with "-dirty" if files differ from it; without git, the version.

    An image contains no git; its revision is set when it is built.
    """
    if settings().platform.revision:
        return settings().platform.revision
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return f"churn-platform {installed_version('churn-platform')}"


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments],  # noqa: S607  the user's git, wherever it is installed
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()
