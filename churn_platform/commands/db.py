"""`churn db`: the database's schema."""

import typer

from churn_platform.commands.stack import default_stack
from churn_platform.commands.terminal import AsJson, ProgressReporter, emit, output, report_errors
from churn_platform.database import migrations
from churn_platform.schema.current import schema_of
from churn_platform.settings import load_settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The database's schema.

    Example: churn db upgrade
    """


@app.command()
def upgrade(as_json: AsJson = False) -> None:
    """Apply missing migrations and bring the tables in line with the customer schema ('churn up' does the same).

    Columns that the schema needs are added; columns that left it become nullable and keep their values. This needs the
    owner of the tables: DATABASE_OWNER_URL, else DATABASE_URL, else the embedded server's own.

    Example: churn db upgrade
    """
    with report_errors(), ProgressReporter("Applying migrations"):
        done = migrations.upgrade(default_stack().owner_dsn, schema_of(load_settings()))
    if as_json:
        emit({"applied": done.migrations, "changes": done.changes})
        return
    for line in (*(f"Applied {name}" for name in done.migrations), *done.changes):
        output.print(line, highlight=False, markup=False)
    if not done.migrations and not done.changes:
        output.print("Up to date.")
