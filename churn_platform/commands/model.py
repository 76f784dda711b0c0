"""`churn model`: train, list, compare and choose versions of the model."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from churn_platform.commands.job_runs import Detach, run_job
from churn_platform.commands.people import listed_number
from churn_platform.commands.terminal import AsJson, ProgressReporter, emit, error_console, output, report_errors
from churn_platform.database.connections import connect

if TYPE_CHECKING:
    import psycopg

    from churn_platform.challengers.comparison import ShadowComparison
    from churn_platform.database.challengers import Challenger, Kind
    from churn_platform.database.model_versions import ModelVersion
    from churn_platform.modeling.comparison import Comparison

app = typer.Typer(no_args_is_help=True)

Reason = Annotated[str, typer.Option(help="The reason; recorded in model_promotions.")]
FIGURES = ("roc_auc", "brier", "f1", "precision", "recall", "ece", "threshold")
OUT_OF_FOLD = "oof_"
UNLIMITED_COLUMNS = 1_000
ROLLED_BACK_HOURS = 24.0
Version = Annotated[int, typer.Argument(parser=listed_number, help="Version, as listed.")]
VersionToTry = Annotated[
    int | None, typer.Argument(parser=listed_number, help="Version, as listed.", show_default=False)
]
Share = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the customers, more than 0.")]
Stop = Annotated[bool, typer.Option("--stop", help="End it.")]
AFTER_START = {
    "shadow": "The worker scores the events of new commits with it; 'churn model compare' shows the result.",
    "canary": "The stream scores their events with it from its next commit.",
}
AFTER_STOP = {
    "shadow": "What it has scored stays, and 'churn model compare' shows it.",
    "canary": "The champion scores all customers from the stream's next commit.",
}


@app.callback()
def _model() -> None:
    """Train, list, compare, try and choose versions of the model.

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
    run_job(
        job,
        detach=detach,
        as_json=as_json,
        next_step="To see whether the version is champion: churn model list; why: churn model compare VERSION.",
    )


@app.command("list")
def list_versions(as_json: AsJson = False) -> None:
    """List the versions, the newest first, with their out-of-fold metrics, and a canary that was rolled back lately.

    Example: churn model list
    """
    from churn_platform.database import challengers, model_versions

    with report_errors(), _connect() as connection:
        versions = model_versions.versions(connection)
        tried = [each for kind in ("shadow", "canary") if (each := challengers.active(connection, kind)) is not None]
        ended = challengers.rolled_back(connection, hours=ROLLED_BACK_HOURS)
    if as_json:
        emit({"versions": [_as_dict(each, tried) for each in versions]})
    elif versions:
        names = _fitting_figures(versions, tried)
        output.print(_versions_table(versions, tried, names))
        if len(names) < len(FIGURES):
            _print("This terminal is too narrow for all metrics. A wider one and --json show them.")
        if ended is not None:
            moment = f"{ended.ended_at:%Y-%m-%d %H:%M}"
            _print(f"The canary, version {ended.model_version}, was rolled back at {moment} UTC. {ended.reason}")
    else:
        _print("No model has been trained yet. Train one: churn model train --prepare")


@app.command()
def promote(
    version: Version,
    reason: Reason = "chosen by hand",
    skip_shadow: Annotated[bool, typer.Option("--skip-shadow", help="Do not require SHADOW_DAYS.")] = False,
) -> None:
    """Make a version champion, whatever its metrics are. The stream scores with it from its next commit.

    With SHADOW_DAYS it must have been a shadow for that long.

    Example: churn model promote 3 --reason "the bank's own choice"
    """
    from churn_platform.challengers.reading import shadow_record
    from churn_platform.database import model_versions
    from churn_platform.modeling.exceptions import ShadowRequiredError
    from churn_platform.settings import settings

    with report_errors(), _connect() as connection:
        former = model_versions.champion(connection)
        if former is not None and former.version == version:
            _print(f"Version {version} is already champion; nothing was changed.")
            return
        required = settings().challengers.shadow_days
        objection = shadow_record(connection, version, required_days=required).objection
        if former is not None and objection is not None and not skip_shadow:
            raise ShadowRequiredError(
                f"Version {version} was not promoted. {objection}",
                remedy=f"Wait, or run 'churn model promote {version} --skip-shadow'.",
            )
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
    version: Version,
    other: Annotated[
        int | None,
        typer.Argument(parser=listed_number, help="To compare with. Default: the champion."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions on the training split, each row scored by a model that was not trained on it.

    If the version is or was a shadow, it is also compared with the champion on the stream's events.

    Example: churn model compare 4
    """
    from churn_platform.challengers.reading import compare_shadow
    from churn_platform.challengers.report import sentences
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
        with _connect() as connection:
            threshold = settings().retention.high_risk_threshold
            shadow = compare_shadow(connection, version, threshold=threshold) if other is None else None
    if as_json:
        emit({**json.loads(comparison.to_json()), "shadow": None if shadow is None else shadow.as_dict()})
        return
    _print(comparison.reason)
    for sentence in () if shadow is None else sentences(shadow.as_dict()):
        _print(sentence)
    _print("")
    output.print(_comparison_table(comparison))
    if shadow is not None:
        _print("")
        output.print(_shadow_table(shadow))


@app.command()
def shadow(
    version: VersionToTry = None,
    share: Share = 1.0,
    stop: Stop = False,
) -> None:
    """Let a version score the stream's events beside the champion. Its scores are stored and compared, nothing else.

    Example: churn model shadow 4 --share 0.2
    """
    _try("shadow", version, share, stop=stop)


@app.command()
def canary(
    version: VersionToTry = None,
    share: Share = 0.1,
    stop: Stop = False,
) -> None:
    """Let a version make the predictions of a fixed share of the customers, until it is stopped or rolled back.

    Example: churn model canary 4 --share 0.1
    """
    _try("canary", version, share, stop=stop)


def _try(kind: "Kind", version: int | None, share: float, *, stop: bool) -> None:
    """Start or stop a shadow or a canary."""
    from churn_platform.challengers import trials
    from churn_platform.schema.current import schema_of
    from churn_platform.settings import settings

    if (version is None) != stop or not share:
        raise typer.BadParameter("Expected a version with a share above 0, or --stop without a version.")
    with report_errors(), _connect() as connection:
        if version is None:
            stopped = trials.stop(connection, kind, reason=f"It was stopped with 'churn model {kind} --stop'.")
            _print(f"Version {stopped.model_version} is no {kind} any more. {AFTER_STOP[kind]}")
            return
        schema = schema_of(settings())
        started = trials.start(connection, kind, model_version=version, share=share, schema=schema)
    _print(
        f"Version {started.model_version} is a {kind} for {started.share:.4g} of the customers. {AFTER_START[kind]} "
        f"'churn model {kind} --stop' ends it."
    )


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


def _as_dict(version: "ModelVersion", tried: "Sequence[Challenger]") -> dict[str, object]:
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
        "state": _state(version, tried),
    }


def _state(version: "ModelVersion", tried: "Sequence[Challenger]") -> str:
    trials = [f"{each.kind} ({each.share:.4g})" for each in tried if each.model_version == version.version]
    if trials:
        return ", ".join(trials)
    if version.promoted_at is None:
        return "never champion"
    return "champion" if version.retired_at is None else "retired"


def _fitting_figures(versions: "list[ModelVersion]", tried: "Sequence[Challenger]") -> Sequence[str]:
    """Return the metrics for which the output is wide enough, because Rich would cut off all numbers instead."""
    unlimited = output.options.update(width=UNLIMITED_COLUMNS)
    for count in range(len(FIGURES), 0, -1):
        names = FIGURES[:count]
        if output.measure(_versions_table(versions, tried, names), options=unlimited).maximum <= output.width:
            return names
    return FIGURES[:1]


def _versions_table(versions: "list[ModelVersion]", tried: "Sequence[Challenger]", names: Sequence[str]) -> Table:
    table = Table("Version", "State", "Trained", "Champion since", box=None, header_style="dim", pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for each in versions:
        figures = {
            name.removeprefix(OUT_OF_FOLD): value for name, value in each.metrics.items() if name[:4] == OUT_OF_FOLD
        }
        figures["threshold"] = each.metrics.get("threshold", float("nan"))
        table.add_row(
            str(each.version),
            _state(each, tried),
            f"{each.registered_at:%Y-%m-%d %H:%M}",
            f"{each.promoted_at:%Y-%m-%d %H:%M}" if each.promoted_at else "",
            *(f"{figures[name]:.4f}" if name in figures else "" for name in names),
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


def _shadow_table(found: "ShadowComparison") -> Table:
    from churn_platform.challengers.report import figures

    table = Table("on the stream", box=None, header_style="dim", pad_edge=False)
    for title in (f"version {found.model_version}", "champion"):
        table.add_column(title, justify="right")
    for name, challenger, champion in figures(found.as_dict()):
        table.add_row(name, f"{challenger:.4f}", f"{champion:.4f}")
    return table


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
