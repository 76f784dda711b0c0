"""`churn score`: score the customers of a file."""

from pathlib import Path
from typing import Annotated

import typer

from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    confirm_replacing,
    emit,
    end,
    error_console,
    output,
    report_errors,
)
from churn_platform.database import erased_customers
from churn_platform.database.connections import connect


def score(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Customers: a file or a folder of files as for training, or s3://bucket/key."
        ),
    ],
    target: Annotated[
        Path,
        typer.Option("--output", help="File to write: .csv, .xlsx or .parquet."),
    ] = Path("scores.csv"),
    force: Annotated[bool, typer.Option("--force", help="Replace existing files without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score every customer of a file with the champion: risk, band and rank, and reasons for those at high risk.

    The scores are the same as the stream's. The file needs no column that says who left. Rows that break a rule of the
    customer schema are not scored; they are in a file beside the output, with the reasons, and the exit code is 1.

    Example: churn score customers.csv --output scores.parquet
    """
    from churn_platform.file_scoring.output import rejected_place, require_known_format, write_scores
    from churn_platform.file_scoring.ranking import BANDS
    from churn_platform.file_scoring.scoring import score_file
    from churn_platform.schema.current import schema_of
    from churn_platform.settings import settings
    from churn_platform.stream.scoring import load_champion_for

    if target.is_dir():
        end(ExitCode.USAGE, f"{target} is a folder.", remedy=f"Name a file: --output {target / 'scores.csv'}")
    with report_errors():
        require_known_format(str(target))
        schema = schema_of(settings())
        with connect(settings().postgres_dsn, application_name="churn score") as connection:
            champion = load_champion_for(connection, schema)
            erased = erased_customers.load(connection)
    rejected = Path(rejected_place(str(target)))
    for each in (target, rejected):
        if each.exists() and not force:
            confirm_replacing(each)
    with (
        report_errors(),
        ProgressReporter("Scoring") as progress,
        score_file(
            file,
            schema,
            champion,
            high_risk_threshold=settings().retention.high_risk_threshold,
            erased=erased,
            progress=lambda count: progress("Scoring", count),
        ) as scored,
    ):
        progress("Writing")
        write_scores(scored, schema, str(target))
    if as_json:
        emit(
            {
                "file": str(target.resolve()),
                "rejected_file": str(rejected.resolve()),
                "customers": scored.customers,
                **dict(zip(BANDS, scored.counts, strict=True)),
                "duplicates": scored.duplicates,
                "rejected": scored.rejected,
                "erased": scored.erased,
                "model_version": scored.model_version,
                "seconds": scored.seconds,
            }
        )
    else:
        counted = ", ".join(
            f"{count:,} {band}" for band, count in reversed(list(zip(BANDS, scored.counts, strict=True)))
        )
        output.print(
            f"[green]{scored.customers:,}[/green] customers scored by model version {scored.model_version} in "
            f"{scored.seconds:.1f} s ({counted} risk): {target}",
            highlight=False,
            soft_wrap=True,
        )
        if scored.duplicates:
            output.print(f"{scored.duplicates:,} rows repeat a customer and were dropped.", highlight=False)
        if scored.erased:
            output.print(f"{scored.erased:,} rows are of erased customers and were left out.", highlight=False)
    if scored.rejected:
        error_console.print(
            f"{scored.rejected:,} rows break a rule of the customer schema and were not scored: {rejected}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(ExitCode.CHECK_FAILED)
