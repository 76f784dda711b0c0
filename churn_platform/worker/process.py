"""The process of the resident worker: its duties, its heartbeat, and its end."""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psycopg

from churn_platform.database import connections
from churn_platform.settings import Settings
from churn_platform.worker.duty import Duty
from churn_platform.worker.heartbeat import heartbeat_file
from churn_platform.worker.loop import Worker

_log = logging.getLogger("churn.worker")

HEARTBEAT_PAUSE: Final = 5.0  # seconds; a third of a container's interval between two health checks


def duties_of(settings: Settings) -> list[Duty]:
    """Return the duties that the settings ask for.

    Raises:
        SettingsError: a setting that a duty needs has no usable value.
        SchemaError: the customer schema is missing or invalid.
    """
    del settings
    return []


def run(settings: Settings) -> None:
    """Run the worker until SIGTERM or SIGINT.

    Raises:
        SettingsError: PostgreSQL is neither configured nor up.
        SchemaError: the customer schema is missing or invalid.
    """
    dsn, duties = settings.postgres_dsn, duties_of(settings)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    def connect(name: str) -> psycopg.Connection:
        return connections.connect(dsn, application_name=name, autocommit=True, connect_timeout=10)

    run_until(stopped, Worker(duties, connect), heartbeat_file(settings.platform.local), names=[d.name for d in duties])


def run_until(stopped: threading.Event, worker: Worker, heartbeat: Path, *, names: Sequence[str]) -> None:
    """Run a worker until the event is set.

    Args:
        stopped: ends the worker.
        worker: not started yet.
        heartbeat: renewed while no duty fails. A health check reads when it was last changed.
        names: of the duties, for the log.
    """
    _log.info("Started with process id %s: %s.", os.getpid(), ", ".join(names) or "no duties")
    heartbeat.parent.mkdir(parents=True, exist_ok=True)
    worker.start()
    while not stopped.is_set():
        if not worker.problems():
            heartbeat.touch()
        stopped.wait(HEARTBEAT_PAUSE)
    unfinished = worker.stop()
    heartbeat.unlink(missing_ok=True)
    if unfinished:
        _log.warning("Ended before these were finished: %s.", ", ".join(unfinished))
    _log.info("Ended.")


def configure_log() -> None:
    """Write the log to stderr, a line for each message, with the time in UTC."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
