"""Every setting of the platform, typed. Nothing else reads the environment.

A value comes from the process environment, else from `.env` (yours), else from `.local/env` (written by `churn up`
and naming where the embedded servers listen), else from the default here.
"""

import os
import re
import socket
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from churn_platform.errors import PlatformError

# librdkafka starts anew from the bootstrap servers when none answers, and forgets that it was backing off: with its
# own 100 ms that is 20 attempts a second, for as long as a password is wrong.
RECONNECTING = {"reconnect.backoff.ms": 1000, "reconnect.backoff.max.ms": 2000}
PROJECT_ROOT = Path(__file__).resolve().parent.parent
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
# Minute, hour, day of the month, month, day of the week: least and most.
CRON_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
CRON_PART = re.compile(r"(?:[*?]|\d+|[A-Za-z]+)(?:-(?:\d+|[A-Za-z]+))?(?:/\d+)?(?:#\d)?")
CRON_NAMES = frozenset({"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"})


class SettingsError(PlatformError):
    """A setting that is needed here has no value, or one that cannot be used."""


def _at_project_root(path: Path) -> Path:
    return path if path.is_absolute() else PROJECT_ROOT / path


def _folder_or_prefix(place: str) -> str:
    bucket = place.removeprefix("s3://").partition("/")[0]
    if "://" in place and (not place.startswith("s3://") or not bucket):
        raise ValueError("expected a folder, or s3://bucket/prefix")
    return place


def _web_address(address: str | None) -> str | None:
    if address is not None and not (address.startswith(("http://", "https://")) and urlsplit(address).hostname):
        raise ValueError("expected https://host or http://host:port")
    return address


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _linkable(url: str) -> str:
    if url and not (url.startswith("https://") and ("github" in url or "gitlab" in url)):
        raise ValueError("expected an https:// address of a repository on GitHub or GitLab, or nothing")
    return url.rstrip("/")


def _stream_start(start: str) -> str:
    if start not in ("earliest", "latest"):
        expected = "expected earliest, latest or an ISO 8601 timestamp such as 2026-11-24T00:00:00Z"
        try:
            moment = _in_utc(datetime.fromisoformat(start))
        except (ValueError, OverflowError):
            raise ValueError(expected) from None
        if moment < EPOCH:  # Kafka takes negative timestamps for other questions
            raise ValueError(f"{expected}, not before 1970")
    return start


def _topic_name(name: str) -> str:
    if not TOPIC_NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError("expected a name of a Kafka topic: at most 249 letters, digits, dots, underscores and hyphens")
    return name


def _cron_schedule(schedule: str) -> str:
    """Refuse what is surely no cron schedule. Dagster, which is slow to import, reads it in full."""
    fields = schedule.split()
    if schedule not in CRON_NAMES and not (
        len(fields) == len(CRON_LIMITS)
        and all(_is_cron_field(field, least, most) for field, (least, most) in zip(fields, CRON_LIMITS, strict=True))
    ):
        raise ValueError("expected the five fields of a cron schedule, such as '30 2 * * *'")
    return schedule


def _is_cron_field(field: str, least: int, most: int) -> bool:
    return all(
        CRON_PART.fullmatch(part)
        and all(least <= int(number) <= most for number in re.findall(r"\d+", part.partition("/")[0].partition("#")[0]))
        for part in field.split(",")
    )


ProjectPath = Annotated[Path, AfterValidator(_at_project_root)]
ArtifactsPlace = Annotated[str, AfterValidator(_folder_or_prefix)]
WebAddress = Annotated[str | None, AfterValidator(_web_address)]
UtcDatetime = Annotated[datetime, AfterValidator(_in_utc)]
RepositoryUrl = Annotated[str, AfterValidator(_linkable)]
StreamStart = Annotated[str, AfterValidator(_stream_start)]
TopicName = Annotated[str, AfterValidator(_topic_name)]
CronSchedule = Annotated[str, AfterValidator(_cron_schedule)]


class Settings(BaseSettings):
    """One attribute per environment variable; the variable is the attribute's name in capitals."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    # Where things are
    churn_local: ProjectPath = Field(
        Path(".local"), description="Folder for the embedded servers' state, logs and Dagster's own files."
    )
    churn_raw_csv: ProjectPath = Field(
        Path("data/raw/ChurnModelling.csv"), description="The customers file that raw_customers reads."
    )
    churn_artifacts: ArtifactsPlace = Field(
        "",
        description="Folder or s3://bucket/prefix for Parquet files, model bundles and the archive; in S3 also for "
        "Dagster's compute logs and the embedded MLflow's files. Empty: CHURN_LOCAL/artifacts.",
    )

    # S3. The AWS variables are those that every AWS library reads; credentials are left to those libraries
    aws_endpoint_url_s3: WebAddress = Field(
        None, description="Where an S3 server that is not AWS's listens. Empty: AWS."
    )
    aws_default_region: str | None = Field(None, description="Region of the bucket. Empty: as the AWS profile says.")
    aws_profile: str | None = Field(
        None, description="Profile in ~/.aws. Empty: AWS's own search, the environment first, an instance's role last."
    )
    s3_kms_key_id: str | None = Field(
        None, description="KMS key (id, ARN or alias) that every object is encrypted with. Empty: as the bucket says."
    )

    churn_environment: str = Field(
        "",
        description="What this environment is called in errors that another one gets. It is known by an id in its "
        "database. Empty: the machine's name and CHURN_LOCAL.",
    )

    churn_revision: str = Field(
        "",
        description="The code's revision, for models and their runs in MLflow; an image is built with its own. Empty: "
        "git says it.",
    )

    # Yours instead of the embedded ones: set one and `churn up` does not start that server
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL 14 or newer, postgresql://user:password@host:port/database. "
        "A direct connection: the stream holds a session lock, which transaction poolers break.",
    )
    database_owner_url: SecretStr | None = Field(
        None,
        description="Login that owns the tables in that PostgreSQL, for 'churn db upgrade' and the migrations of "
        "'churn up' alone. Empty: DATABASE_URL.",
    )
    database_reader_url: SecretStr | None = Field(
        None,
        description="Login for people and dashboards, who only look; 'churn prepare --logins' makes it. 'churn up' "
        "writes the embedded database's to .local/env.",
    )
    kafka_bootstrap_servers: str | None = Field(None, description="Kafka brokers, host:port, comma separated.")
    mlflow_tracking_uri: str | None = Field(None, description="MLflow tracking server, http://host:port.")

    # Kafka security, handed to the client as it stands
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How the Kafka client speaks to the brokers."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="SASL mechanism, with a SASL protocol."
    )
    kafka_sasl_username: str | None = Field(None, description="SASL user.")
    kafka_sasl_password: SecretStr | None = Field(None, description="SASL password.")
    kafka_ssl_ca_location: ProjectPath | None = Field(
        None, description="File of the CA that signed the brokers' certificate."
    )
    kafka_ssl_certificate_location: ProjectPath | None = Field(
        None, description="Client certificate file, for mutual TLS."
    )
    kafka_ssl_key_location: ProjectPath | None = Field(None, description="Client key file, for mutual TLS.")
    kafka_request_seconds: float | None = Field(
        None,
        ge=1,
        le=50,  # librdkafka wants it below the time-out of a transaction, 60 s
        description="Time-out of a request to the brokers. Unset: 10 s for requests about topics, 60 s for others.",
    )

    # Topics
    events_topic: TopicName = Field("customer-events", description="Topic that customer events are read from.")
    predictions_topic: TopicName = Field("churn-predictions", description="Topic that predictions are published to.")
    outcomes_topic: TopicName = Field(
        "customer-outcomes",
        description="Topic that says later who left and who stayed; 'churn outcomes send' creates it if it is missing.",
    )
    claims_topic: TopicName = Field(
        "churn-claims",
        description="Topic that records which environment publishes to which topic, as which consumer group. The same "
        "for all environments of a Kafka.",
    )
    topic_partitions: int = Field(
        3,
        ge=1,
        description="Kafka partitions of a topic that the platform creates; an existing topic is left as it is.",
    )
    topic_replication: int = Field(1, ge=1, description="Replicas of a topic that the platform creates.")

    # The stream
    stream_group: str = Field(
        "churn-platform", description="Consumer group of the published offsets: the lag that a Kafka UI shows."
    )
    stream_start: StreamStart = Field(
        "earliest", description="Where a topic never seen before begins: earliest, latest or an ISO 8601 timestamp."
    )
    stream_epoch: UtcDatetime = Field(
        datetime(2026, 1, 1, tzinfo=UTC),
        description="First hour of the hourly and daily partitions (UTC); an event from before is a dead letter.",
    )
    commit_events: int = Field(30_000, ge=1, description="Most events in one commit.")
    linger_ms: int = Field(
        15, ge=0, description="Least time from one commit to the next, in milliseconds: events gather."
    )
    batch_events: int = Field(1_000_000, ge=1, description="A batch closes at this many events.")
    batch_seconds: float = Field(60, gt=0, description="A batch closes this long after its first event.")
    idle_seconds: float = Field(300, gt=0, description="A streaming run ends after this long without an event.")
    standby: bool = Field(True, description="Keep one warm run waiting to take over while events flow.")
    scoring_threads: int = Field(1, ge=1, description="Threads of XGBoost when it scores a commit.")

    # Metrics
    metrics_seconds: float = Field(
        60,
        ge=0,
        description="An hour is computed so long after its first event, and again at most so often, in seconds.",
    )

    # Growth
    retention_days: int = Field(
        14,
        ge=1,
        description="Days that events stay in a topic that the platform creates, which is how far back a replay can "
        "go, and that Dagster keeps prediction partitions, runs and ticks.",
    )
    archive_days: int = Field(
        90,
        ge=31,
        description="Days after which the predictions of a closed batch move from churn_predictions to Parquet files. "
        "At least 31: views look back 30.",
    )

    # Schedules; both are off until turned on in the UI
    data_preparation_cron: CronSchedule = Field("0 2 * * *", description="When the data is prepared, cron syntax, UTC.")
    training_cron: CronSchedule = Field(
        "30 2 * * *",
        description="When a model is trained, cron syntax, UTC; skipped while data, settings and code are those of the "
        "last one.",
    )

    # Monitoring
    monitoring_seconds: float = Field(
        600,
        ge=1,
        description="Drift of an hour is judged so long after its first event, and again at most so often, in seconds; "
        "that of a day a sixth as often; live performance of the running day as often, while new outcomes come.",
    )
    drift_shifted: float = Field(
        0.1, gt=0, description="PSI from which a feature, or the score, has shifted: its check warns."
    )
    drift_far: float = Field(
        0.25, gt=0, description="PSI from which it is far off: its check fails, and a new model is asked for."
    )
    drift_least_predictions: int = Field(
        500, ge=100, description="An hour or day of fewer predictions is not judged: small samples differ by chance."
    )
    live_window_days: int = Field(
        30, ge=1, le=30, description="Days of predictions that live performance looks back on."
    )
    live_auc_loss: float = Field(
        0.05,
        gt=0,
        description="So much less ROC AUC than out of fold, and surely less, is too little: the check fails, and a new "
        "model is asked for.",
    )

    # The model
    call_cost: float | None = Field(
        None,
        ge=0,
        description="Cost of calling a customer, in any currency. With the two below, the threshold of a model is the "
        "one of greatest profit; without, that of greatest F1.",
    )
    kept_customer_value: float | None = Field(
        None, gt=0, description="Value of a customer who is kept, in the same currency."
    )
    call_success_rate: float | None = Field(
        None, gt=0, le=1, description="Share of churners whom a call keeps, 0 to 1."
    )
    tuning_trials: int = Field(
        0,
        ge=0,
        description="Trials of the search for hyperparameters that a training makes, or has on record for the same "
        "rows. 0: it takes the committed ones.",
    )
    tuning_seconds: float = Field(
        300, gt=0, description="The search begins no trial after this long; what it found by then is taken."
    )
    promotion_confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="How sure a new model's gain over the champion has to be: so many resamples of the rows show one.",
    )
    promotion_slice_loss: float = Field(
        0.02, ge=0, description="Most ROC AUC that a slice of the customers may lose by a new champion."
    )

    # What the Dagster UI shows
    preview_rows: int = Field(
        5,
        ge=0,
        le=50,
        description="Rows of a table that a materialization shows; Dagster's event log keeps them. 0: none.",
    )
    code_url: RepositoryUrl = Field(
        "",
        description="GitHub or GitLab repository of this code, https://github.com/you/churn: asset pages link to it. "
        "Empty: they name the local file.",
    )
    code_branch: str = Field("main", description="Branch, tag or commit that those links lead to.")

    # MLflow names
    mlflow_experiment: str = Field("churn", description="MLflow experiment of the training runs.")
    mlflow_model: str = Field("churn_prediction", description="Name of the registered model.")

    @property
    def artifacts(self) -> str:
        """Root of Parquet files and model bundles: an absolute folder or an s3:// prefix, without a trailing slash."""
        if "://" in self.churn_artifacts:
            return self.churn_artifacts.rstrip("/")
        folder = Path(self.churn_artifacts) if self.churn_artifacts else self.churn_local / "artifacts"
        return str(_at_project_root(folder))

    @property
    def environment(self) -> str:
        """What this environment is called. The id that it is known by is in its database."""
        return self.churn_environment or f"{socket.gethostname()}:{self.churn_local}"

    @property
    def postgres_dsn(self) -> str:
        """Connection string of the platform's database.

        Raises:
            SettingsError: no database is configured and the embedded one is not up, or libpq cannot read the string.
        """
        if self.database_url is None:
            raise _missing("DATABASE_URL", "PostgreSQL", self.churn_local)
        dsn = self.database_url.get_secret_value()
        require_readable("DATABASE_URL", dsn)
        return dsn

    @property
    def bootstrap_servers(self) -> str:
        """Kafka brokers.

        Raises:
            SettingsError: no brokers are configured and the embedded one is not up.
        """
        if self.kafka_bootstrap_servers is None:
            raise _missing("KAFKA_BOOTSTRAP_SERVERS", "Kafka", self.churn_local)
        return self.kafka_bootstrap_servers

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking server.

        Raises:
            SettingsError: no server is configured and the embedded one is not up.
        """
        if self.mlflow_tracking_uri is None:
            raise _missing("MLFLOW_TRACKING_URI", "MLflow", self.churn_local)
        return self.mlflow_tracking_uri

    @property
    def call_costs(self) -> tuple[float, float, float] | None:
        """Cost of a call, value of a kept customer and success rate, or None where none is set.

        Raises:
            SettingsError: some are set and some are not.
        """
        given = {
            "CALL_COST": self.call_cost,
            "KEPT_CUSTOMER_VALUE": self.kept_customer_value,
            "CALL_SUCCESS_RATE": self.call_success_rate,
        }
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == len(given):
            return None
        if self.call_cost is None or self.kept_customer_value is None or self.call_success_rate is None:
            raise SettingsError(
                f"{' and '.join(missing)} not set: a threshold by cost needs {', '.join(given)}. "
                "Set all three, or none."
            )
        return self.call_cost, self.kept_customer_value, self.call_success_rate

    @property
    def kafka_client(self) -> dict[str, str | int | float | bool]:
        """librdkafka settings that every client of ours shares: brokers, security, and a log of warnings and worse."""
        seconds = self.kafka_request_seconds
        given = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.kafka_security_protocol,
            "sasl.mechanism": self.kafka_sasl_mechanism,
            "sasl.username": self.kafka_sasl_username,
            "sasl.password": self.kafka_sasl_password.get_secret_value() if self.kafka_sasl_password else None,
            "ssl.ca.location": self.kafka_ssl_ca_location,
            "ssl.certificate.location": self.kafka_ssl_certificate_location,
            "ssl.key.location": self.kafka_ssl_key_location,
        }
        return {
            "log_level": 4,
            **RECONNECTING,
            **{name: str(value) for name, value in given.items() if value is not None},
            **({} if seconds is None else {"socket.timeout.ms": round(seconds * 1000)}),
        }


def require_readable(variable: str, dsn: str) -> None:
    """Refuse a connection string that libpq's own errors would show together with its password.

    Args:
        variable: names it in the error.
        dsn: a URL or `name=value` pairs.

    Raises:
        SettingsError: it cannot be read, or a piece of the password is taken for a host, a port or a database.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
        url = urlsplit(
            dsn if "://" in dsn else ""
        )  # Dagster and MLflow read it as this does: "?" and "#" end a password
    except (ProgrammingError, ValueError):
        readable = False
    else:
        places = (*(parts.get(name, "") for name in ("host", "hostaddr", "dbname")), url.query)
        readable = (
            not any("@" in place for place in places)
            and not url.fragment
            and set(parts.get("port", "")) <= set("0123456789,")
        )
    if not readable:
        raise SettingsError(
            f"{variable} is not a connection string that PostgreSQL can read (it is not shown here: it may hold a "
            "password).",
            remedy="Write it as postgresql://user:password@host:port/database, what is special in the password "
            "percent-encoded: @ as %40, / as %2F, : as %3A, ? as %3F, # as %23, % as %25.",
        )


def _missing(variable: str, server: str, local: Path) -> SettingsError:
    return SettingsError(
        f"{variable} is not set and {local / 'env'} does not name a running {server}.",
        remedy=f"Start the platform with 'churn up' (without Dagster: 'churn up --services-only'), or set {variable} "
        f"to your own {server}.",
    )


def load_settings() -> Settings:
    """Settings read anew: the environment, then `.env`, then `.local/env`.

    Raises:
        SettingsError: a value cannot be used; it says which and why, and shows no value.
    """
    yours = PROJECT_ROOT / ".env"
    try:
        local = os.environ.get("CHURN_LOCAL") or dotenv_values(yours).get("CHURN_LOCAL") or ".local"
        found = Settings(_env_file=(_at_project_root(Path(local)) / "env", yours))  # type: ignore[call-arg]  # hidden
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{yours} or the file env in CHURN_LOCAL is not UTF-8 text: {error.reason} at byte {error.start}.",
            remedy="Save .env as UTF-8. The other one is written by 'churn up': delete it and run 'churn up' again.",
        ) from error
    except ValidationError as error:
        problems = [f"{str(each['loc'][0]).upper()}: {each['msg']}." for each in error.errors(include_input=False)]
        raise SettingsError(
            "\n".join(problems), remedy="What each setting may be: 'churn settings --format markdown'."
        ) from error
    found.call_costs  # noqa: B018  some of the three without the others are refused
    return found


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()
