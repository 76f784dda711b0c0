"""`churn data`: generate customers files, and prepare one for training."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from churn_platform.commands.job_runs import Detach, run_job
from churn_platform.commands.terminal import AsJson, ExitCode, ProgressReporter, confirm_replacing, emit, end, output
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.defaults import BANK, MAX_ROWS, SUBSCRIBERS

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(no_args_is_help=True)


class DataSetName(StrEnum):
    """The data sets that can be generated."""

    BANK = "bank"
    SUBSCRIBERS = "subscribers"


@app.callback()
def _data() -> None:
    """Generate customers files, and prepare one for training.

    Example: churn data generate --rows 100000 --output customers.csv
    """


@app.command()
def generate(
    data_set: Annotated[
        DataSetName,
        typer.Option(help="Which customers: those of a bank, or subscribers of an internet and phone service."),
    ] = DataSetName.BANK,
    rows: Annotated[
        int | None,
        typer.Option(
            help=f"How many, at most {MAX_ROWS:,}. Default: {BANK.rows:,}, or {SUBSCRIBERS.rows:,} subscribers.",
            min=1,
            max=MAX_ROWS,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same rows and seed give the same file, byte for byte. "
            f"Default: {BANK.seed}, or {SUBSCRIBERS.seed} for subscribers.",
            min=0,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="File to write. Default: the file in the project's data folder that belongs to the data set.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Generate a file of synthetic customers with realistic statistics.

    An existing file is replaced only after a confirmation on a terminal, or with --force.

    Example: churn data generate --rows 1000000 --seed 7 --output million.csv
    """
    # pandas takes a second to import, which --help must not wait for
    from churn_platform.schema.generator import generate_customers, write_customers
    from churn_platform.schema.subscribers import generate_subscribers
    from churn_platform.schema.toml_file import customers_file, load_schema
    from churn_platform.settings import PROJECT_ROOT

    defaults, generate = (
        (BANK, generate_customers) if data_set is DataSetName.BANK else (SUBSCRIBERS, generate_subscribers)
    )
    rows, seed = rows or defaults.rows, defaults.seed if seed is None else seed
    schema_file = PROJECT_ROOT / defaults.schema
    target = file or Path(customers_file(schema_file))
    if target.is_dir():
        end(ExitCode.USAGE, f"{target} is a folder.", remedy=f"Name a file: --output {target / 'customers.csv'}")
    if target.exists() and not force:
        confirm_replacing(target)
    begin = time.monotonic()
    written = 0
    with ProgressReporter("Generating customers", total=rows) as progress:
        customers = generate(rows, seed)

        def on_rows(count: int) -> None:
            nonlocal written
            written += count
            progress("Writing", written)

        try:
            write_customers(customers, target, on_rows=on_rows)
        except OSError as error:
            end(
                ExitCode.FAILED,
                f"{target} cannot be written: {error.strerror}.",
                remedy="Name another file with --output, or remove the obstacle.",
            )
    left = _share_left(customers, load_schema(schema_file))
    size, took = target.stat().st_size, time.monotonic() - begin
    if as_json:
        found = {
            "file": str(target.resolve()),
            "data_set": data_set.value,
            "rows": rows,
            "seed": seed,
            "left": left,
            "bytes": size,
        }
        emit({**found, "seconds": took})
        return
    output.print(
        f"[green]{rows:,}[/green] customers with seed {seed}, {left:.2%} of them left: {target} "
        f"({size / 1e6:,.1f} MB, {took:.1f} s)",
        soft_wrap=True,
    )
    used = [f"CHURN_RAW_CSV={target.resolve()}"] if file else []
    if data_set is not DataSetName.BANK:
        used.insert(0, f"CHURN_SCHEMA={schema_file}")
    if used:
        output.print(f"To use it: [bold]{' '.join(used)}[/bold]", soft_wrap=True)


@app.command("prepare")
def prepare_data(detach: Detach = False, as_json: AsJson = False) -> None:
    """Read the customers file, check it, and prepare the features: a run of data_preparation_job in Dagster.

    The exit code is 4 if the run fails. Ctrl+C leaves it running.

    Example: churn data prepare
    """
    run_job("data_preparation_job", detach=detach, as_json=as_json, next_step="To train on it: churn model train")


def _share_left(customers: "pd.DataFrame", schema: CustomerSchema) -> float:
    """Return the share of generated customers who left."""
    values = customers[schema.target].astype(str).replace(dict(schema.target_column.spellings))
    return float((values == str(schema.left)).mean())
