"""The duty that lets a shadow score: it keeps a process for it while one is active, and asks it to follow the stream.

The process imports XGBoost, which this one does not: see challengers/shadow_process.py.
"""

import selectors
import subprocess
import sys
from contextlib import suppress
from typing import IO, Final

import msgspec
import psycopg

from churn_platform.challengers.exceptions import ShadowProcessError
from churn_platform.challengers.shadow_requests import PROGRAM, RUN, Answer, Setup
from churn_platform.database import challengers

NAME: Final = "shadow"
PAUSE: Final = 2.0
"""Seconds between two looks at the stream's positions."""
# A run scores 20,000 events, or compares 500,000. Both take seconds, and the first one imports XGBoost.
PATIENCE_SECONDS: Final = 120.0


class ShadowDuty:
    """Follows the stream for the active shadow. Without one it costs a look at an empty index every two seconds."""

    name = NAME
    exclusive = True
    interval = PAUSE

    def __init__(self, dsn: str, *, high_risk_threshold: float, patience: float = PATIENCE_SECONDS) -> None:
        """Start no process yet.

        Args:
            dsn: connection string of the database, for the process.
            high_risk_threshold: risk score from which a customer is at high risk, 0..1.
            patience: seconds until a process that does not answer is killed.
        """
        self._setup = Setup(dsn, high_risk_threshold)
        self._patience = patience
        self._process: _ScoringProcess | None = None

    @property
    def process_id(self) -> int | None:
        """Of the process that scores; None if there is none."""
        return None if self._process is None else self._process.process_id

    def run(self, connection: psycopg.Connection) -> bool:
        """Let the shadow score what was committed since the last run; return whether there is more.

        Raises:
            ShadowProcessError: the process failed or does not answer. The next run starts another one.
        """
        if challengers.active(connection, "shadow") is None:
            self.stop()
            return False
        if self._process is None:
            self._process = _ScoringProcess(self._setup)
        try:
            answer = self._process.ask(self._patience)
        except ShadowProcessError:
            self.stop()
            raise
        if answer.problem:
            self.stop()
            raise ShadowProcessError(f"The shadow was not scored. {answer.problem}")
        return answer.more

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.stop()
            self._process = None


class _ScoringProcess:
    """The process that scores. It ends by itself when this one does, because its standard input is closed then."""

    def __init__(self, setup: Setup) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C ends the worker only, and the process finishes its transaction
        )
        self._send(msgspec.json.encode(setup) + b"\n")

    @property
    def process_id(self) -> int:
        return self._process.pid

    def ask(self, patience: float) -> Answer:
        """Return the answer to a request.

        Raises:
            ShadowProcessError: it has ended, or does not answer.
        """
        self._send(RUN)
        output = _pipe(self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            if not selector.select(patience):
                raise ShadowProcessError(f"The process that scores for the shadow did not answer for {patience:g} s.")
        line = output.readline()
        if not line:
            raise self._ended()
        return msgspec.json.decode(line, type=Answer)

    def stop(self) -> None:
        self._process.kill()  # its transaction is rolled back, or was committed as a whole
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # what was not read is not needed
                _pipe(pipe).close()

    def _send(self, line: bytes) -> None:
        try:
            _pipe(self._process.stdin).write(line)
            _pipe(self._process.stdin).flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> ShadowProcessError:
        return ShadowProcessError(
            f"The process that scores for the shadow ended with status {self._process.wait()}. Its error is above.",
            remedy=f"'{sys.executable} -m {PROGRAM}' has to start.",
        )


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("The process has no pipe, although it was asked for; Python always makes it.")
    return pipe
