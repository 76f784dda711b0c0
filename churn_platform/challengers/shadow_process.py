"""`python -m churn_platform.challengers.shadow_process`: scores for the shadow as long as the worker asks it to.

This process takes 170 MB, because of XGBoost and NumPy, so the resident worker does not import them. It starts this
process while a shadow is active: see worker/shadow.py. The process reads one request from standard input for each run,
and answers with one line. It ends when standard input is closed, as when the worker has died.
"""

import logging
import signal
import sys

import msgspec
import psycopg

from churn_platform.challengers.shadow_requests import Answer, Setup
from churn_platform.challengers.shadow_scoring import ShadowScoring
from churn_platform.database import connections

SESSION = "churn worker shadow scoring"


def main() -> None:
    """Serve requests until standard input ends."""
    # The worker decides when this process ends, also after Ctrl-C in a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=Setup)
    scoring = ShadowScoring(high_risk_threshold=setup.high_risk_threshold)
    with connections.connect(setup.dsn, application_name=SESSION, autocommit=True, connect_timeout=10) as connection:
        while sys.stdin.buffer.readline():
            _answer(_run(scoring, connection))
            if connection.closed:
                return  # the worker starts this process again


def _run(scoring: ShadowScoring, connection: psycopg.Connection) -> Answer:
    try:
        return Answer(more=scoring.run(connection))
    except Exception as error:  # the worker logs it and asks again
        return Answer(problem=f"{type(error).__name__}: {error}".strip())


def _answer(answer: Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
