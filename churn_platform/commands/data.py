"""`churn data`: making customers files."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from churn_platform.commands.terminal import complaints, output
from churn_platform.customers.defaults import DEFAULT_ROWS, DEFAULT_SEED, MAX_ROWS

app = typer.Typer(help="Make customers files.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Make customers files."""


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
) -> None:
    """Make a file of customers who behave like the real bank's.

    Example: churn data generate --rows 1000000 --seed 7 --output million.csv
    """
    # pandas takes a second to import: not before --help is answered
    from churn_platform.customers.generator import generate_customers, write_customers
    from churn_platform.settings import PROJECT_ROOT

    target = file or PROJECT_ROOT / "data" / "raw" / "ChurnModelling.csv"
    if target.is_dir():
        complaints.print(
            f"[red]{target} is a folder.[/red] Name a file: --output {target / 'customers.csv'}", soft_wrap=True
        )
        raise typer.Exit(2)
    begin = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=complaints,
        transient=True,
    ) as progress:
        making = progress.add_task("Making customers", total=None)
        customers = generate_customers(rows, seed)
        progress.remove_task(making)
        writing = progress.add_task("Writing", total=rows)
        try:
            write_customers(customers, target, on_rows=lambda count: progress.advance(writing, count))
        except OSError as error:
            progress.stop()
            complaints.print(
                f"[red]{target} cannot be written:[/red] {error.strerror}. "
                f"Name another file with --output, or free what is in the way.",
                soft_wrap=True,
            )
            raise typer.Exit(1) from error
    output.print(
        f"[green]{rows:,}[/green] customers of seed {seed}, {customers['Exited'].mean():.2%} of them left: {target} "
        f"({target.stat().st_size / 1e6:,.1f} MB, {time.monotonic() - begin:.1f} s)",
        soft_wrap=True,
    )
    if file:
        output.print(f"To use it: [bold]CHURN_RAW_CSV={target.resolve()}[/bold]", soft_wrap=True)
