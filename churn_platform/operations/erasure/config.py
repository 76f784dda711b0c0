"""Where an erasure and an export look."""

from dataclasses import dataclass

from churn_platform.environments.config import EnvironmentConfig
from churn_platform.schema.current import customers_of
from churn_platform.settings import Settings


@dataclass(frozen=True)
class ErasureConfig:
    """Where an erasure and an export look.

    Attributes:
        environment: the brokers, the database, the topics and the schema of the customers.
        outcomes_topic: name of the topic of outcomes.
        artifacts_root: root of the files that the platform writes.
        customers: the customers file, which belongs to the user.
    """

    environment: EnvironmentConfig
    outcomes_topic: str
    artifacts_root: str
    customers: str

    @classmethod
    def from_settings(cls, settings: Settings) -> "ErasureConfig":
        """Return where to look, as the settings say.

        Raises:
            SettingsError: Kafka or PostgreSQL is neither configured nor up.
            SchemaError: the customer schema is missing or invalid.
        """
        return cls(
            environment=EnvironmentConfig.from_settings(settings),
            outcomes_topic=settings.topics.outcomes,
            artifacts_root=settings.platform.artifacts_root,
            customers=customers_of(settings),
        )
