"""`churn model`: train, list, compare and choose versions of the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from churn_platform.commands.job_runs import Detach, run_job
from churn_platform.commands.terminal import AsJson, ProgressReporter, emit, error_console, output, report_errors
from churn_platform.database.connections import connect

if TYPE_CHECKING:
    import psycopg

    from churn_platform.database.model_versions import ModelVersion
    from churn_platform.modeling.comparison import Comparison

app = typer.Typer(no_args_is_help=True)

Reason = Annotated[str, typer.Option(help="The reason; recorded in model_promotions.")]
FIGURES = ("roc_auc", "brier", "f1", "precision", "recall", "ece")
OUT_OF_FOLD = "oof_"


@app.callback()
def _model() -> None:
    """Train, list, compare and choose versions of the model.

    Example: churn model list
    """


@app.command()
def train(
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Prepare the customers file first, as 'churn data prepare' does.")
    ] = False,
    detach: Detach = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on the prepared data, and promote it if it is better: a run of training_job in Dagster.

    The exit code is 4 if the run fails. Ctrl+C leaves it running.

    Example: churn model train --prepare
    """
    job = "retraining_job" if prepare else "training_job"
    run_job(job, detach=detach, as_json=as_json, next_step="To see the versions: churn model list")


@app.command("list")
def list_versions(as_json: AsJson = False) -> None:
    """List the versions, the newest first, with their out-of-fold metrics.

    Example: churn model list
    """
    from churn_platform.database import model_versions

    with report_errors(), _connect() as connection:
        versions = model_versions.versions(connection)
    if as_json:
        emit({"versions": [_as_dict(each) for each in versions]})
    elif versions:
        output.print(_versions_table(versions))
    else:
        _print("No model has been trained yet. Train one: churn model train --prepare")


@app.command()
def promote(
    version: Annotated[int, typer.Argument(min=1, help="Version, as listed.")],
    reason: Reason = "chosen by hand",
) -> None:
    """Make a version champion, whatever its metrics are. The stream scores with it from its next commit.

    Example: churn model promote 3 --reason "the bank's own choice"
    """
    from churn_platform.database import model_versions

    with report_errors(), _connect() as connection:
        former = model_versions.champion(connection)
        if former is not None and former.version == version:
            _print(f"Version {version} is already champion; nothing was changed.")
            return
        _point_alias(model_versions.promote(connection, version, reason=reason))
    _print(f"Version {version} is champion now. The stream scores with it from its next commit.")


@app.command()
def rollback(reason: Reason = "rolled back by hand") -> None:
    """Return to the previous champion. The stream scores with it from its next commit.

    Example: churn model rollback --reason "too many calls"
    """
    from churn_platform.database import model_versions

    with report_errors(), _connect() as connection:
        left, champion = model_versions.rollback(connection, reason=reason)
        _point_alias(champion)
    _print(
        f"Version {champion.version} is champion again instead of {left.version}. The stream scores with it from its "
        f"next commit."
    )


@app.command()
def compare(
    version: Annotated[int, typer.Argument(min=1, help="Version, as listed.")],
    other: Annotated[int | None, typer.Argument(min=1, help="To compare with. Default: the champion.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions on the training split, each row scored by a model that was not trained on it.

    Example: churn model compare 4
    """
    from churn_platform.database import model_versions
    from churn_platform.files.artifacts import join, read_bytes
    from churn_platform.files.parquet import from_parquet
    from churn_platform.modeling.comparison import compare as compare_models
    from churn_platform.modeling.promotion import promotion_rule
    from churn_platform.modeling.splitting import TRAIN, rows_of
    from churn_platform.modeling.trained_model import TrainedModel
    from churn_platform.schema.current import schema_of
    from churn_platform.settings import settings

    with report_errors(), ProgressReporter("Comparing"):
        with _connect() as connection:
            new = model_versions.get(connection, version)
            old = model_versions.champion(connection) if other is None else model_versions.get(connection, other)
        if old is None:
            raise model_versions.ModelVersionError(
                "There is no champion to compare with.", remedy="Name a second version, or 'churn model promote' one."
            )
        split = from_parquet(read_bytes(join(settings().platform.artifacts_root, "assets", "train_test_split.parquet")))
        comparison = compare_models(
            rows_of(split, TRAIN),
            TrainedModel(new.version, new.run_id, new.uri),
            TrainedModel(old.version, old.run_id, old.uri),
            promotion_rule(settings(), schema_of(settings())),
        )
    if as_json:
        output.print_json(comparison.to_json())
        return
    output.print(_comparison_table(comparison))
    _print(comparison.reason)


@contextmanager
def _connect() -> "Iterator[psycopg.Connection]":

    from churn_platform.settings import settings

    with connect(settings().postgres_dsn, autocommit=True, application_name="churn model") as connection:
        yield connection


def _point_alias(champion: "ModelVersion") -> None:
    """Move MLflow's alias to the champion. If MLflow does not answer, the next training moves it."""
    from churn_platform.orchestration.resources.mlflow import MlflowError, MlflowLostError, MlflowRegistry
    from churn_platform.settings import SettingsError

    try:
        MlflowRegistry().follow_champion(champion.version, champion.run_id)
    except MlflowLostError as error:
        error_console.print(
            f"MLflow's alias 'champion' now points at no version: {error}", style="yellow", markup=False, soft_wrap=True
        )
    except (MlflowError, SettingsError) as error:
        error_console.print(
            f"MLflow's alias 'champion' was not moved; the next training moves it: {error}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _as_dict(version: "ModelVersion") -> dict[str, object]:
    """Return a version for JSON, with times in ISO 8601."""
    return {
        **vars(version),
        **{
            name: moment.isoformat() if moment else None
            for name, moment in (
                ("registered_at", version.registered_at),
                ("promoted_at", version.promoted_at),
                ("retired_at", version.retired_at),
            )
        },
        "state": _state(version),
    }


def _state(version: "ModelVersion") -> str:
    if version.promoted_at is None:
        return "never champion"
    return "champion" if version.retired_at is None else "retired"


def _versions_table(versions: "list[ModelVersion]") -> Table:
    table = Table("Version", "State", "Trained", "Champion since", box=None, header_style="dim", pad_edge=False)
    for name in (*FIGURES, "threshold"):
        table.add_column(name, justify="right")
    for each in versions:
        figures = {
            name.removeprefix(OUT_OF_FOLD): value for name, value in each.metrics.items() if name[:4] == OUT_OF_FOLD
        }
        figures["threshold"] = each.metrics.get("threshold", float("nan"))
        table.add_row(
            str(each.version),
            _state(each),
            f"{each.registered_at:%Y-%m-%d %H:%M}",
            f"{each.promoted_at:%Y-%m-%d %H:%M}" if each.promoted_at else "",
            *(f"{figures[name]:.4f}" if name in figures else "" for name in (*FIGURES, "threshold")),
        )
    return table


def _comparison_table(comparison: "Comparison") -> Table:
    table = Table("", box=None, header_style="dim", pad_edge=False)
    for title in (f"version {comparison.version}", f"version {comparison.champion_version}"):
        table.add_column(title, justify="right")
    champion = {} if comparison.champion is None else comparison.champion.as_dict()
    for name, value in comparison.challenger.as_dict().items():
        table.add_row(name, f"{value:.4f}", f"{champion[name]:.4f}" if name in champion else "")
    for name, gain in ({} if comparison.gain is None else comparison.gain.slices).items():
        table.add_row(f"ROC AUC, {name}", f"{gain:+.4f}", "")
    return table


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
