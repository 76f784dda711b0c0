"""`churn data`: generate customers files."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from churn_platform.commands.terminal import AsJson, ExitCode, ProgressReporter, emit, end, output
from churn_platform.schema.defaults import DEFAULT_ROWS, DEFAULT_SEED, MAX_ROWS

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Generate customers files.

    Example: churn data generate --rows 100000 --output customers.csv
    """


@app.command()
def generate(
    rows: Annotated[
        int, typer.Option(help="How many customers, at most 10,000,000.", min=1, max=MAX_ROWS)
    ] = DEFAULT_ROWS,
    seed: Annotated[
        int, typer.Option(help="The same rows and seed give the same file, byte for byte.", min=0)
    ] = DEFAULT_SEED,
    file: Annotated[
        Path | None, typer.Option("--output", help="File to write. Default: the project's data/raw/ChurnModelling.csv.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Generate a file of customers with statistics similar to those of the real bank.

    An existing file is replaced only after a confirmation on a terminal, or with --force.

    Example: churn data generate --rows 1000000 --seed 7 --output million.csv
    """
    # pandas takes a second to import, which --help must not wait for
    from churn_platform.schema.generator import generate_customers, write_customers
    from churn_platform.settings import PROJECT_ROOT

    target = file or PROJECT_ROOT / "data" / "raw" / "ChurnModelling.csv"
    if target.is_dir():
        end(ExitCode.USAGE, f"{target} is a folder.", remedy=f"Name a file: --output {target / 'customers.csv'}")
    if target.exists() and not force:
        _confirm_replacing(target)
    begin = time.monotonic()
    written = 0
    with ProgressReporter("Generating customers", total=rows) as progress:
        customers = generate_customers(rows, seed)

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
    left, size, took = customers["Exited"].mean(), target.stat().st_size, time.monotonic() - begin
    if as_json:
        found = {"file": str(target.resolve()), "rows": rows, "seed": seed, "left": float(left), "bytes": size}
        emit({**found, "seconds": took})
        return
    output.print(
        f"[green]{rows:,}[/green] customers with seed {seed}, {left:.2%} of them left: {target} "
        f"({size / 1e6:,.1f} MB, {took:.1f} s)",
        soft_wrap=True,
    )
    if file:
        output.print(f"To use it: [bold]CHURN_RAW_CSV={target.resolve()}[/bold]", soft_wrap=True)


def _confirm_replacing(file: Path) -> None:
    """Ask whether the file may be replaced; end the command if not, or if there is no terminal to ask on."""
    size = f"{file.stat().st_size:,} bytes"
    if not sys.stdin.isatty():
        end(
            ExitCode.FAILED,
            f"{file} already exists ({size}). It was not changed.",
            remedy="Name another file with --output, or replace it with --force.",
        )
    if not typer.confirm(f"{file} already exists ({size}). Replace it?", err=True):
        end(ExitCode.CHECK_FAILED, f"{file} was not changed.")
