"""`churn recover`: reconcile a restored database with Kafka."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from churn_platform.commands.stack import servers_up
from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    emit,
    error_console,
    output,
    report_errors,
)

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.database.recovered_predictions import Comparison
    from churn_platform.operations.recovery.recover import Recovery
    from churn_platform.stream.config import StreamConfig


def recover(
    report: Annotated[
        bool,
        typer.Option("--report", help="Only report which recovered predictions are scored again; the stream may run."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Reconcile the database with Kafka after one of them was restored to an earlier state or has lost data.

    Lost events are scored again. Predictions that are in the predictions topic already are not published again; those
    that are missing there are published. Messages that may have been sent since are put in doubt. Customers who were
    erased since are erased again. The exit code is 1 if something is left to decide, and 3 while a run is live. It can
    be repeated at any time.

    Example: churn recover
    """
    from churn_platform.operations.erasure.config import ErasureConfig
    from churn_platform.operations.erasure.restored import erase_restored
    from churn_platform.operations.recovery import recover as recovery
    from churn_platform.settings import load_settings
    from churn_platform.stream.config import StreamConfig

    with report_errors(), servers_up("kafka", "postgres"):
        settings = load_settings()
        if report:
            _report(StreamConfig.from_settings(settings), as_json=as_json)
            return
        with ProgressReporter("Reading Kafka and PostgreSQL") as progress:
            found = recovery.recover(StreamConfig.from_settings(settings), progress)
            _, erased = erase_restored(
                ErasureConfig.from_settings(settings), erased_by="churn recover", progress=progress
            )
    if as_json:
        emit({**_as_dict(found), "erased_again": len(erased)})
    else:
        _show(found)
        if erased:
            _print(f"{len(erased):,} customers whom the restore has brought back are erased again.")
    if found.problems:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _report(config: "StreamConfig", *, as_json: bool) -> None:
    """Report how the recovered predictions compare with what their events were scored with again."""
    from churn_platform.database import recovered_predictions
    from churn_platform.database.connections import connect

    with connect(config.dsn, autocommit=True, application_name="churn recover") as connection:
        comparison = recovered_predictions.compare(connection, high_risk=config.high_risk_threshold)
    if as_json:
        emit({"recovered": asdict(comparison)})
    elif comparison.recovered:
        _show_comparison(comparison)
    else:
        _print("There are no recovered predictions: the database was never restored to an earlier state.")


def _as_dict(found: "Recovery") -> dict[str, object]:
    reconciled = found.reconciled
    return {
        "topic": reconciled.topic,
        "partitions": [
            {"kafka_partition": partition, "position": reconciled.positions[partition], "published": published}
            for partition, published in reconciled.published.items()
        ],
        "lost": reconciled.lost,
        "published": reconciled.missing,
        "recovered": asdict(found.comparison),
        "in_doubt": [
            {**asdict(each), "idempotency_key": str(each.idempotency_key)} for each in found.reconciled.doubtful
        ],
        "problems": found.problems,
    }


def _show(found: "Recovery") -> None:
    reconciled, comparison = found.reconciled, found.comparison
    for partition, published in reconciled.published.items():
        _print(
            f"{reconciled.topic}[{partition}] was read up to offset {reconciled.positions[partition]}, but published "
            f"up to {published}. The events between are scored again."
        )
    if reconciled.lost:
        _print(
            f"{reconciled.lost:,} predictions in the predictions topic have no row in the database. Their events are "
            f"scored again, and they are not published again: recovered_predictions records them."
        )
    if reconciled.missing:
        _print(f"{reconciled.missing:,} rows were missing in the predictions topic, and are published now.")
    if reconciled.found_restore:
        _show_rolled_back(found)
    elif comparison.recovered:
        _show_comparison(comparison)
    elif not reconciled.missing and not found.problems:
        _print("Kafka, the database and the files agree; nothing was changed.")
    for problem in found.problems:
        error_console.print(Text(problem, style="red"), soft_wrap=True)


def _show_rolled_back(found: "Recovery") -> None:
    """Show what was rolled back besides predictions, as far as there is evidence of it."""
    for message in found.reconciled.doubtful:
        _print(
            f"In doubt: message {message.id} ({message.kind}, {message.reference}) to {message.target}, idempotency "
            f"key {message.idempotency_key}. It may have been sent since. Ask its receiver, then run 'churn alerts "
            f"confirm', 'retry' or 'dismiss' with {message.id}."
        )
    if found.comparison.high_risk:
        _print(
            f"{found.comparison.high_risk:,} of the recovered predictions are high risk. Cases of these customers, and "
            f"calls and messages about them, that this database no longer has, cannot be seen in Kafka. The worker's "
            f"log names the messages that it sent; the retention team knows whom it called."
        )
    _print("Next: churn up. When the events are scored again, 'churn recover --report' shows how many scores differ.")


def _show_comparison(comparison: "Comparison") -> None:
    waiting = comparison.recovered - comparison.scored
    _print(
        f"Of {comparison.recovered:,} recovered predictions, {comparison.scored:,} have a row again: "
        f"{comparison.other_score:,} with another risk score than the published one"
        + (f", by at most {comparison.largest_difference:.3g}" if comparison.other_score else "")
        + f", {comparison.other_version:,} by another model version."
    )
    if waiting:
        _print(
            f"{waiting:,} have no row: their events wait to be scored again, are dead letters now, or were deleted "
            f"from the events topic."
        )


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
