"""The PostgreSQL resource: connections, and the session that shows sensors that a run is alive."""

import dagster as dg
import psycopg
from pydantic import PrivateAttr

from churn_platform.database.connections import connect
from churn_platform.orchestration.run_launcher import SESSION_TAG
from churn_platform.settings import settings
from churn_platform.stream.run_session import RunSession, keep_to_the_end

ENDS = {dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED}


class PostgresResource(dg.ConfigurableResource["PostgresResource"]):
    """Connections to the platform's database. It stores no secrets.

    A run with this resource keeps a session in PostgreSQL as long as it lives. Sensors use it to tell whether the run
    is alive.
    """

    _session: RunSession | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Open the session of a run. Sensors have none."""
        run, instance = context.run, context.instance
        if run is None or instance is None:
            return

        def has_ended() -> bool:
            # The status is not enough, because a starting run overwrites it.
            return bool(instance.all_logs(run.run_id, of_type=ENDS))

        self._session = RunSession(settings().postgres_dsn, run.run_id, has_ended=has_ended)
        self._session.open()
        keep_to_the_end(self._session)
        instance.add_run_tags(run.run_id, {SESSION_TAG: "opened"})

    def connect(self, application_name: str) -> psycopg.Connection:
        """Return a connection. As a context manager it commits at the end, or rolls back on an error, and closes.

        Raises:
            SettingsError: no database is configured and the embedded one is not up.
            psycopg.OperationalError: the database cannot be reached.
        """
        return connect(settings().postgres_dsn, application_name=application_name)

    def confirm_run(self) -> None:
        """Make sure that this run has not been recorded as ended, and cannot be while its session lasts.

        Raises:
            RunEndedError: the run has been recorded as ended.
        """
        if self._session is None:
            raise RuntimeError("Only runs have a session, and this is not a run.")
        self._session.confirm()
