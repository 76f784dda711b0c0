"""Who is meant: the customer that an argument names, and the person at the terminal."""

import getpass
import os
import re
from typing import Final

from churn_platform.commands.terminal import ExitCode, end

# Python's int() also takes other digits than 0 to 9, and underscores, plus signs and spaces.
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")


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


def system_user() -> str:
    """Return the name of the user who runs the command, or the number."""
    try:
        return getpass.getuser()
    except OSError:  # the system does not know the process' user, as in a container
        return str(os.getuid())
