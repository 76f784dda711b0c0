"""The requests of the worker to the process that scores for a shadow, and the answers.

The worker stays small, so this module imports none of the large libraries.
"""

from typing import Final

import msgspec

PROGRAM: Final = "churn_platform.challengers.shadow_process"
RUN: Final = b"run\n"
"""Asks for one run. The answer is one line."""


class Setup(msgspec.Struct):
    """The first line to the process. It comes through standard input, because arguments are visible to other users.

    Attributes:
        dsn: connection string of the database, which may have a password.
        high_risk_threshold: risk score from which a customer is at high risk, 0..1.
    """

    dsn: str
    high_risk_threshold: float


class Answer(msgspec.Struct):
    """What one run has done.

    Attributes:
        more: whether there is more to score.
        problem: why it failed; empty if it did not.
    """

    more: bool = False
    problem: str = ""
