"""The model that scores, which follows promotions without a restart."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Final

import psycopg

from churn_platform.api.config import ApiConfig
from churn_platform.database import model_versions
from churn_platform.database.connections import connect
from churn_platform.database.model_versions import ModelVersion
from churn_platform.errors import PlatformError
from churn_platform.scoring.contributions import Explainer
from churn_platform.stream.scoring import RETRY_SECONDS, Champion, ChampionFollower, load_champion_for

_log = logging.getLogger("churn.api")

NAME: Final = "churn api"
LOOK_SECONDS: Final = 1.0
"""Seconds between two looks at model_versions. A look is one query for one row."""
CONNECT_SECONDS: Final = 3
STATEMENT_SECONDS: Final = 5
SILENT_SECONDS: Final = 10.0
"""The database counts as away if no look has succeeded for so long: longer than a statement may take."""


@dataclass(frozen=True)
class ServedModel:
    """A model that answers requests.

    Attributes:
        champion: its version and its bundle.
        row: what model_versions says of it.
        explainer: explains its scores.
    """

    champion: Champion
    row: ModelVersion
    explainer: Explainer


class ModelFollower:
    """Looks at model_versions once a second, in a thread, and loads what was promoted.

    `current` is replaced as a whole, so a request that has taken it finishes with the same model. A champion that
    cannot be used does not replace the one that scores, and neither does a database that is away.
    """

    def __init__(self, config: ApiConfig) -> None:
        """Create it; nothing is loaded before `start`.

        Args:
            config: names the database and the schema.
        """
        self.current: ServedModel | None = None
        self._config = config
        self._champions: ChampionFollower | None = None
        self._connection: psycopg.Connection | None = None
        self._answered_at: float | None = None
        self._refused: int | None = None
        self._refused_at = 0.0
        self._last_problem = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def start(self) -> None:
        """Begin to look. The first look, which usually loads the champion, happens before this returns."""
        self._look()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and its connection."""
        self._stopping.set()
        self._thread.join()
        self._disconnect()

    @property
    def database_answers(self) -> bool:
        """Whether the last look succeeded, not long ago."""
        return self._answered_at is not None and time.monotonic() - self._answered_at < SILENT_SECONDS

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            self._follow(self._connected())
        except psycopg.Error as error:
            self._answered_at = None
            self._disconnect()
            self._report(f"The database does not answer ({type(error).__name__}), so promotions are not seen.")
        except (PlatformError, OSError) as error:
            self._report(str(error))
        else:
            if self.current is not None:
                self._last_problem = ""

    def _follow(self, connection: psycopg.Connection) -> None:
        champion = model_versions.champion(connection)
        self._answered_at = time.monotonic()
        version = None if champion is None else champion.version
        if self._champions is None:
            self._champions = self._first(connection, version)
        else:
            self._champions.follow(connection, version)
        if self._champions is None:
            return
        found = self._champions.current
        if self.current is None or self.current.champion is not found:
            row = model_versions.get(connection, found.version)
            self.current = ServedModel(found, row, Explainer(found.bundle))

    def _first(self, connection: psycopg.Connection, version: int | None) -> ChampionFollower | None:
        """Load the first champion; None if it cannot be used and was tried a moment ago.

        Raises:
            NoChampionError, BundleError, SchemaDisagreementError: see load_champion_for().
        """
        if version is not None and version == self._refused and time.monotonic() - self._refused_at < RETRY_SECONDS:
            return None
        self._refused, self._refused_at = version, time.monotonic()
        first = load_champion_for(connection, self._config.schema)
        _log.info("Model version %d scores.", first.version)
        return ChampionFollower(first, self._config.schema, _log.info)

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = connect(
                self._config.dsn,
                application_name=NAME,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                tcp_user_timeout=STATEMENT_SECONDS * 1000,
            )
            self._connection.execute("select set_config('statement_timeout', %s, false)", (f"{STATEMENT_SECONDS}s",))
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _report(self, problem: str) -> None:
        """Log a problem once, not with every look."""
        if problem != self._last_problem:
            _log.warning("%s", problem)
        self._last_problem = problem
