"""`churn completion`: the script that completes commands, options and parts in a shell."""

from enum import StrEnum
from typing import Annotated

import typer
from typer._completion_shared import get_completion_script  # what --show-completion prints, for a shell that is named


class Shell(StrEnum):
    """Supported shells."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.")]) -> None:
    """Print the completion script for churn's commands and options, for the start-up file of a shell.

    bash and zsh: eval "$(churn completion bash)". fish: churn completion fish | source.

    Example: churn completion bash
    """
    typer.echo(get_completion_script(prog_name="churn", complete_var="_CHURN_COMPLETE", shell=shell))
