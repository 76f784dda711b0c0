"""`churn completion`: what makes a shell complete commands, options and parts."""

from enum import StrEnum
from typing import Annotated

import typer
from typer._completion_shared import get_completion_script  # what --show-completion prints, for a shell that is named


class Shell(StrEnum):
    """Shells that can be told."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.")]) -> None:
    """Print what makes a shell complete churn's commands and options; for its start-up file.

    bash and zsh: eval "$(churn completion bash)". fish: churn completion fish | source.

    Example: churn completion bash
    """
    typer.echo(get_completion_script(prog_name="churn", complete_var="_CHURN_COMPLETE", shell=shell))
