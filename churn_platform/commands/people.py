"""Who or what is meant: the customer, version or message that an argument names, and the person at the terminal."""

import getpass
import os
import re
from typing import Final

import typer

from churn_platform.commands.terminal import ExitCode, end

# Python's int() also takes other digits than 0 to 9, and underscores, plus signs and spaces.
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")
_LISTED: Final = re.compile(r"[1-9][0-9]{0,17}")


def customer_id_of(text: str) -> int | str:
    """Return an id as the customer schema has it.

    Raises:
        SchemaError: the schema is missing or invalid.
    """
    from churn_platform.schema.current import schema_of
    from churn_platform.settings import settings

    if schema_of(settings()).id_type == "text":
        return text
    if not _WHOLE.fullmatch(text):
        end(ExitCode.USAGE, f"{text[:100]!r} is not the id of a customer: expected a whole number, such as 15634602.")
    customer_id = int(text)
    if not -(2**63) <= customer_id < 2**63:
        end(ExitCode.USAGE, f"{text} is not the id of a customer: expected a whole number of at most 64 bits.")
    return customer_id


def listed_number(text: str) -> int:
    """Return the number by which a command lists a version or a message, from 1.

    Raises:
        typer.BadParameter: it is something else.
    """
    if not _LISTED.fullmatch(text):
        raise typer.BadParameter(f"{text[:100]!r} is not a number of the list: expected a whole number from 1.")
    return int(text)


def system_user() -> str:
    """Return the name of the user who runs the command, or the number."""
    try:
        return getpass.getuser()
    except OSError:  # the system does not know the process' user, as in a container
        return str(os.getuid())
