"""`churn aws`: a deployment on Amazon ECS."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from churn_platform.commands.clean import table_of
from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    confirm_by_word,
    emit,
    end,
    error_console,
    output,
    report_errors,
)

if TYPE_CHECKING:  # boto3 is slow to import
    from collections.abc import Sequence

    from churn_platform.operations.cleanup.plan import Item

app = typer.Typer(
    help="Manage a deployment on Amazon ECS.\n\nExample: churn aws clean churn --dry-run", no_args_is_help=True
)


@app.command()
def clean(
    stack: Annotated[str, typer.Argument(help="Name of the CloudFormation stack.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what will be deleted.")] = False,
    yes: Annotated[
        str | None, typer.Option("--yes", metavar="WORD", help="For scripts: the word to confirm with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete a deployment on Amazon ECS: its stack, its tasks, and everything that the stack leaves.

    It lists everything and asks you to type the name of the stack. Then it lists again: if something is left, the exit
    code is 1. The bucket, Kafka's topics and the database stay: 'churn clean' deletes what the platform has made there.

    Example: churn aws clean churn --dry-run
    """
    if as_json and not dry_run and yes is None:
        end(ExitCode.USAGE, "--json requires --dry-run or --yes WORD, because the command cannot ask.")
    from churn_platform.operations.cleanup.aws import AwsDeployment, Clients
    from churn_platform.settings import load_settings

    with report_errors():
        s3 = load_settings().s3
        deployment = AwsDeployment(stack, Clients.connect(region=s3.region, profile=s3.profile))
        with ProgressReporter("Listing") as report:
            items = deployment.collect(report)
        if not as_json:
            _show(items)
        left: Sequence[Item] = []
        deletes = bool(items) and not dry_run
        if deletes:
            confirm_by_word(f"Type {stack} to delete all of it", stack, given=yes, unchanged="nothing was deleted")
            with ProgressReporter("Deleting") as report:
                deployment.delete(report)
                left = deployment.collect(report)
    if as_json:
        emit({"delete": [asdict(each) for each in items], "left": [asdict(each) for each in left], "deleted": deletes})
    elif deletes and not left:
        output.print("Deleted. Nothing is left.")
    for item in left:
        error_console.print(Text(f"Not deleted: {item.place} {item.name}", style="red"), soft_wrap=True)
    if left:
        error_console.print("Run the command again.", style="bold")
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _show(items: "Sequence[Item]") -> None:
    if not items:
        output.print("There is nothing to delete.")
        return
    output.print(Text("Will delete", style="bold"))
    output.print(table_of([(each.place, each.name, each.detail) for each in items]))
