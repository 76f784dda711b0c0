"""What is set up in Kafka and PostgreSQL once they answer: tables, logins, topics and the environment's claims."""

import threading
from typing import TYPE_CHECKING

from churn_platform.database import migrations
from churn_platform.local import postgres
from churn_platform.local.configuration import StackConfiguration
from churn_platform.local.part import Part
from churn_platform.schema.current import schema_of
from churn_platform.settings import load_settings

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.stream.config import StreamConfig

BOTH = frozenset({"kafka", "postgres"})


class ServiceSetup:
    """The setup of one start. Parts complete in different threads."""

    def __init__(self, configuration: StackConfiguration) -> None:
        self._configuration = configuration
        self._complete: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, part: Part) -> None:
        """Complete a part that answers, before the parts that need it start.

        Raises:
            EnvironmentConflictError: another environment publishes where this one would.
            LanesError: there are more lanes than the events topic has partitions.
        """
        part.complete()
        if part.name == "postgres":
            self._set_up_postgres()
        if part.name == "kafka" and "kafka" in self._configuration.embedded:
            self._create_topics()
        if part.name in BOTH:
            with self._lock:
                self._complete.add(part.name)
                if self._complete >= BOTH:
                    # Without Dagster nothing writes yet, so there is nothing to claim.
                    self._check_environment(claim=not self._configuration.services_only)

    def _set_up_postgres(self) -> None:
        configuration = self._configuration
        if "postgres" in configuration.yours:
            self._check_environment(claim=False)
        migrations.upgrade(configuration.owner_dsn, schema_of(load_settings()))
        if "postgres" in configuration.embedded:
            passwords = {login: configuration.passwords[login] for login in postgres.LOGINS if login.role is not None}
            postgres.ensure_logins(configuration.owner_dsn, passwords)

    def _create_topics(self) -> None:
        """Create the platform's topics, so that any client can send events from the start."""
        from churn_platform.kafka import clients, topics

        config = self._configuration.stream_config()
        topics.create_missing(
            clients.admin(config.kafka.client), config.kafka, (config.events_topic, config.predictions_topic)
        )

    def _require_partitions(self, config: "StreamConfig") -> None:
        """Refuse more lanes than the events topic has partitions. A topic that is missing is created by a run."""
        from churn_platform.kafka import clients, topics
        from churn_platform.stream.partitions import require_partitions

        admin = clients.admin(config.kafka.client)
        if not topics.missing(admin, [config.events_topic]):
            require_partitions(admin, config)

    def _check_environment(self, *, claim: bool) -> None:
        """Refuse to start where another environment publishes; on request claim what this one writes to.

        A stack of only some parts writes nothing there.
        """
        if self._configuration.only is not None:
            return
        from churn_platform.database.connections import connect
        from churn_platform.environments.environment_guard import EnvironmentGuard
        from churn_platform.kafka import clients

        config = self._configuration.stream_config()
        with (
            connect(self._configuration.owner_dsn, autocommit=True, application_name="churn up") as connection,
            EnvironmentGuard(connection, clients.admin(config.kafka.client), config) as guard,
        ):
            if "postgres" in self._configuration.yours:
                guard.require_exclusive_use()
            if claim:
                guard.claim()
                self._require_partitions(config)
            else:
                guard.check()
