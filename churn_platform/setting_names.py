"""Which names of environment variables are probably misspelled settings. Pure; reads no environment.

An unknown setting would be ignored silently, and the platform would run with the default.
"""

import re
from collections.abc import Collection
from typing import Final

PREFIX: Final = "CHURN_"
# Two edits cover a missing letter, a wrong letter and two swapped letters (BATCH_SECNODS).
MOST_EDITS: Final = 2
# In a name with fewer letters, two edits are most of it: LANG is no misspelled LANES.
LETTERS_FOR_MOST_EDITS: Final = 6
# Names that begin with our prefix but are not settings.
OTHER_NAMES_OF_OURS: Final = frozenset(
    {
        "CHURN_IMAGE",  # read by docker-compose.yaml, which shares .env
        "CHURN_PLATFORM_PASSWORD",  # the same
        "CHURN_ANALYST_PASSWORD",  # the same
        "CHURN_RETENTION_PASSWORD",  # the same
        "CHURN_STACK",  # marks the processes that `churn up` starts
        "CHURN_EMBEDDED",  # the same
    }
)
# Names of other programs that are within two edits of one of our settings.
OTHER_PROGRAMS: Final = re.compile(
    r"LINES"  # of the terminal, exported by some shells
    r"|AWS_ENDPOINT_URL_\w{2,4}"  # AWS has one for each of its services: ..._SQS is two edits from ..._S3
    r"|(CODER|NODE|CORE|CDN|CODE)_UR[LI]"  # Coder's workspaces, and common names of web applications
    r"|\w+_(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_(TCP|UDP)\w*)"  # Kubernetes, for a service called churn-...
)


def is_probably_ours(name: str, known: Collection[str]) -> bool:
    """Return whether an unknown name was probably meant to be a setting.

    Args:
        name: of a variable, in capitals.
        known: names of all settings.
    """
    if name in known or name in OTHER_NAMES_OF_OURS or OTHER_PROGRAMS.fullmatch(name):
        return False
    return name.startswith(PREFIX) or any(
        _may_be_close(name, each)
        and edit_distance(name, each) <= (MOST_EDITS if len(each) >= LETTERS_FOR_MOST_EDITS else 1)
        for each in known
    )


def closest_name(name: str, known: Collection[str]) -> str:
    """Return the known name with the smallest edit distance."""
    return min(sorted(known), key=lambda each: edit_distance(name, each))


def edit_distance(first: str, second: str) -> int:
    """Return the Levenshtein distance: how many letters to insert, delete or replace."""
    previous = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        current = [row]
        for column, other in enumerate(second, start=1):
            replaced = previous[column - 1] + (letter != other)
            current.append(min(previous[column] + 1, current[-1] + 1, replaced))
        previous = current
    return previous[-1]


def _may_be_close(first: str, second: str) -> bool:
    """Return False if the distance is certainly larger. Computing it for every variable takes 0.1 s."""
    # An edit changes the length by at most one, and the set of letters by at most two.
    return (
        abs(len(first) - len(second)) <= MOST_EDITS and len(set(first).symmetric_difference(second)) <= 2 * MOST_EDITS
    )
