"""`churn customer`: everything about one customer, as a file or for the last time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from churn_platform.commands.people import customer_id_of, system_user
from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    confirm_by_word,
    confirm_replacing,
    emit,
    end,
    output,
    report_errors,
)

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.operations.erasure.config import ErasureConfig
    from churn_platform.operations.erasure.report import Report

app = typer.Typer(no_args_is_help=True)

Customer = Annotated[str, typer.Argument(metavar="CUSTOMER", help="Id of the customer.")]
By = Annotated[str | None, typer.Option(help="Who does it, for the audit trail. Default: the system's user.")]


@app.callback()
def _customer() -> None:
    """Export or erase everything about one customer.

    Example: churn customer export 15634602
    """


@app.command()
def export(
    customer: Customer,
    target: Annotated[
        Path | None, typer.Option("--output", help="File to write: .json or .zip. Default: standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file without asking.")] = False,
) -> None:
    """Export everything about a customer: rows of all tables, the archive, files and Dagster's metadata, as JSON.

    The document says where was looked and what was not searched. A file can only be read by you.

    Example: churn customer export 15634602 --output customer.zip
    """
    if target is not None and target.suffix not in (".json", ".zip"):
        end(ExitCode.USAGE, f"{target} ends with neither .json nor .zip.", remedy="Name a file: --output customer.zip")
    from churn_platform.files.private import write_private
    from churn_platform.operations.erasure.export import export as export_customer

    with report_errors():
        config, customer_id = _config(), customer_id_of(customer)
        if target is not None and target.exists() and not force:
            confirm_replacing(target)
        with ProgressReporter("Reading") as progress:
            found = export_customer(config, customer_id, progress)
    if target is None:
        emit(json.loads(found.as_json()))
        return
    try:
        write_private(target, found.as_zip() if target.suffix == ".zip" else found.as_json())
    except OSError as error:
        end(
            ExitCode.FAILED, f"{target} cannot be written: {error.strerror}.", remedy="Name another file with --output."
        )
    rows = sum(map(len, found.places.values()))
    output.print(Text(f"{rows:,} rows of {len(found.places):,} places: {target}"), soft_wrap=True)


@app.command()
def erase(
    customer: Customer,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be erased, and what not.")] = False,
    yes: Annotated[
        str | None, typer.Option("--yes", metavar="CUSTOMER", help="For scripts: the id again, to confirm with.")
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Erase a customer everywhere, and do not store what comes later about the same customer.

    It shows how much each place holds, and asks you to type the id. Sums stay true: batches count erased events. The
    command says what it cannot erase, such as messages in Kafka, and until when they are kept. If it is interrupted,
    repeat it. --json requires --dry-run or --yes.

    Example: churn customer erase 15634602 --dry-run
    """
    if as_json and not dry_run and yes is None:
        end(ExitCode.USAGE, "--json requires --dry-run or --yes CUSTOMER, because the command cannot ask.")
    from churn_platform.operations.erasure import erase as erasing

    with report_errors():
        config, customer_id = _config(), customer_id_of(customer)
        with ProgressReporter("Reading") as progress:
            report = erasing.plan(config, customer_id, progress)
        if not as_json:
            _show(report, "Would be erased" if dry_run else "Will be erased")
        if not dry_run:
            confirm_by_word(
                "Type the customer's id to erase all of it", customer, given=yes, unchanged="nothing was erased"
            )
            with ProgressReporter("Erasing") as progress:
                report = erasing.erase(config, customer_id, erased_by=by or system_user(), progress=progress)
    if as_json:
        emit(report.as_dict())
    elif not dry_run:
        output.print(f"Erased: {report.total:,} rows and entries. Later messages about this customer are not stored.")


@app.command("erase-again")
def erase_again(by: By = None, as_json: AsJson = False) -> None:
    """Erase again the customers whom a restored backup has brought back. Run it after every restore of the database.

    The list of erased customers is read from the database, and from the artifacts, where each erasure stores a copy.

    Example: churn customer erase-again
    """
    from churn_platform.operations.erasure.restored import erase_restored

    with report_errors(), ProgressReporter("Reading") as progress:
        known, reports = erase_restored(_config(), erased_by=by or system_user(), progress=progress)
    if as_json:
        emit({"added_to_the_list": known, "erased": [report.as_dict() for report in reports]})
        return
    output.print(
        f"{len(reports):,} customers erased again, {sum(report.total for report in reports):,} rows and entries; "
        f"{known:,} were missing in the database's list.",
        highlight=False,
    )


def _config() -> "ErasureConfig":
    from churn_platform.operations.erasure.config import ErasureConfig
    from churn_platform.settings import settings

    return ErasureConfig.from_settings(settings())


def _show(report: "Report", title: str) -> None:
    found = {place: count for place, count in report.counts.items() if count}
    output.print(Text(f"{title}: {report.total:,} rows and entries", style="bold"))
    output.print(_table([(place, f"{count:,}") for place, count in found.items()]))
    output.print(Text("Not erased", style="bold"))
    output.print(
        _table(
            [
                (
                    each.place,
                    each.reason if each.until is None else f"{each.reason} At the latest {each.until:%Y-%m-%d}.",
                )
                for each in report.remains
            ]
        )
    )


def _table(rows: list[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
