"""`churn db`: the database's schema."""

import typer

from churn_platform.commands.stack import default_stack
from churn_platform.commands.terminal import AsJson, ProgressReporter, emit, output, report_errors
from churn_platform.database import migrations

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The database's schema.

    Example: churn db upgrade
    """


@app.command()
def upgrade(as_json: AsJson = False) -> None:
    """Apply the migrations that the database does not have yet ('churn up' does the same).

    They need the owner of the tables: DATABASE_OWNER_URL, else DATABASE_URL, else the embedded server's own.

    Example: churn db upgrade
    """
    with report_errors(), ProgressReporter("Applying migrations"):
        applied = migrations.upgrade(default_stack().owner_dsn)
    if as_json:
        emit({"applied": applied})
        return
    for name in applied:
        output.print(f"Applied {name}", highlight=False)
    if not applied:
        output.print("Up to date.")
