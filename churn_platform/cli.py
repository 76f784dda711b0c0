"""`churn`: assembles the platform's commands, which are defined in `commands/`."""

import typer

from churn_platform.commands import (
    alerts,
    aws,
    cases,
    customer,
    dashboard,
    data,
    db,
    dlq,
    model,
    outcomes,
    schema,
    serve,
    stack,
    stream,
)
from churn_platform.commands.backup import backup, restore
from churn_platform.commands.clean import clean
from churn_platform.commands.completion import completion
from churn_platform.commands.demo import demo
from churn_platform.commands.init import init
from churn_platform.commands.prepare import prepare
from churn_platform.commands.produce import produce
from churn_platform.commands.program import Program
from churn_platform.commands.recover import recover
from churn_platform.commands.score import score
from churn_platform.commands.settings import settings
from churn_platform.commands.verify import verify
from churn_platform.commands.worker import worker

app = typer.Typer(
    cls=Program,
    help="Train a churn model and score a stream of customer events, on one Dagster asset graph."
    "\n\nExample: churn demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # they may contain a password
)

for command in (
    demo,
    stack.up,
    stack.down,
    stack.status,
    stack.logs,
    stack.with_own_servers(prepare),
    stack.with_own_servers(produce),
    stack.with_own_servers(score),
    stack.with_own_servers(verify),
    stack.with_own_servers(backup),
    stack.with_own_servers(restore),
    stack.with_own_servers(recover),
    stack.with_own_servers(worker),
    settings,
    init,
    clean,
    completion,
):
    app.command()(command)
app.add_typer(stream.app, name="stream")
app.add_typer(dlq.app, name="dlq")
app.add_typer(outcomes.app, name="outcomes")
app.add_typer(cases.app, name="cases")
app.add_typer(customer.app, name="customer")
app.add_typer(alerts.app, name="alerts")
app.add_typer(model.app, name="model")
app.add_typer(dashboard.app, name="dashboard")
app.add_typer(serve.app, name="serve")
app.add_typer(db.app, name="db")
for group in (
    stream.app,
    dlq.app,
    outcomes.app,
    cases.app,
    customer.app,
    alerts.app,
    model.app,
    dashboard.app,
    serve.app,
    db.app,
):
    for described in group.registered_commands:
        if described.callback is not None:
            described.callback = stack.with_own_servers(described.callback)
dashboard.app.callback(invoke_without_command=True)(stack.with_own_servers(dashboard.dashboard))
serve.app.callback(invoke_without_command=True)(stack.with_own_servers(serve.serve))
app.add_typer(data.app, name="data")
app.add_typer(schema.app, name="schema")
app.add_typer(aws.app, name="aws")

if __name__ == "__main__":
    app()
