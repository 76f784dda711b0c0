"""Every setting of the platform, typed and grouped by what it configures. Nothing else reads the environment.

A value comes from the process environment, else from `.env` (yours), else from `.local/env` (written by `churn up`,
with the addresses of the embedded servers), else from the default here. A secret may also be in a file or in AWS
Secrets Manager: see secret_sources.py.

What does not belong here: configuration that a lower package defines as its own dataclass, such as `kafka/config.py`.
"""

import os
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from churn_platform import secret_sources
from churn_platform.errors import PlatformError
from churn_platform.hosts import is_loopback
from churn_platform.logs import LogFormat
from churn_platform.secret_sources import AwsLogin, SecretError
from churn_platform.setting_names import closest_name, is_probably_ours

# When no broker answers, librdkafka starts again from the bootstrap servers and resets its backoff. With its default
# of 100 ms that is 20 attempts a second for as long as a password is wrong.
RECONNECTING = {"reconnect.backoff.ms": 1000, "reconnect.backoff.max.ms": 2000}
PROJECT_ROOT = Path(__file__).resolve().parent.parent
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CUSTOMER_ID_PLACE = "{customer_id}"
TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
# Without dots, so that no environment's names begin with the prefix of another one's.
ENVIRONMENT_PREFIX = re.compile(r"[a-z0-9][a-z0-9-]{0,29}")
# The names that begin with the environment's, unless they are set.
PREFIXED = ("EVENTS_TOPIC", "PREDICTIONS_TOPIC", "OUTCOMES_TOPIC", "STREAM_GROUP")
# Minute, hour, day of the month, month, day of the week: minimum and maximum.
CRON_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
CRON_PART = re.compile(r"(?:[*?]|\d+|[A-Za-z]+)(?:-(?:\d+|[A-Za-z]+))?(?:/\d+)?(?:#\d)?")
# RFC 7628, section 3.1: a name of letters, and printable characters. A comma separates extensions in librdkafka.
SASL_EXTENSION = re.compile(r"[A-Za-z]+=[ -+\--~]+")
# The name of a target of messages, which logs, tables and errors show instead of its address.
TARGET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
CRON_NAMES = frozenset({"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"})


class SettingsError(PlatformError):
    """A setting that is required here has no value, an unusable value, or an unknown name."""


def _at_project_root(path: Path) -> Path:
    return path if path.is_absolute() else PROJECT_ROOT / path


def _folder_or_prefix(place: str) -> str:
    bucket = place.removeprefix("s3://").partition("/")[0]
    if "://" in place and (not place.startswith("s3://") or not bucket):
        raise ValueError("expected a folder, or s3://bucket/prefix")
    return place


def _customers_place(place: str) -> str:
    _folder_or_prefix(place)
    return place if not place or "://" in place else str(_at_project_root(Path(place)))


def _web_address(address: str | None) -> str | None:
    if address is not None and not (address.startswith(("http://", "https://")) and urlsplit(address).hostname):
        raise ValueError("expected https://host or http://host:port")
    return address


def _token_address(address: str | None) -> str | None:
    _web_address(address)
    if address is not None and address.startswith("http://") and not is_loopback(urlsplit(address).hostname or ""):
        raise ValueError("expected https://, because the request has the client's secret in it")
    return address


def _ip_address(address: str | None) -> str | None:
    if address is not None:
        try:
            ip_address(address)
        except ValueError:
            raise ValueError("expected an IP address such as 10.0.0.5") from None
    return address


def _sasl_extensions(text: str | None) -> str | None:
    if text is not None and not all(SASL_EXTENSION.fullmatch(part.strip()) for part in text.split(",")):
        raise ValueError("expected name=value, comma separated, with a name of letters, such as logicalCluster=lkc-1")
    return text


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _linkable(url: str) -> str:
    if url and not (url.startswith("https://") and ("github" in url or "gitlab" in url)):
        raise ValueError("expected the https:// address of a repository on GitHub or GitLab, or nothing")
    return url.rstrip("/")


def _timezone_name(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError("expected a name of the IANA time zone database, such as Europe/Berlin or UTC") from None
    return name


def _customer_url(template: str) -> str:
    place = template.replace(CUSTOMER_ID_PLACE, "")
    if template and not (
        template.startswith(("http://", "https://"))
        and urlsplit(template).hostname
        and place != template
        and not set("{}<> ") & set(place)
    ):
        raise ValueError(f"expected an address with {CUSTOMER_ID_PLACE} in it, or nothing")
    return template


def customer_link(template: str, customer_id: int | str) -> str | None:
    """Return the address of a customer in the CRM; None if there is none.

    Args:
        template: the setting CUSTOMER_URL.
        customer_id: of the customer.
    """
    return template.replace(CUSTOMER_ID_PLACE, quote(str(customer_id), safe="")) or None


def _stream_start(start: str) -> str:
    if start not in ("earliest", "latest"):
        expected = "expected earliest, latest or an ISO 8601 timestamp such as 2026-11-24T00:00:00Z"
        try:
            moment = _in_utc(datetime.fromisoformat(start))
        except (ValueError, OverflowError):
            raise ValueError(expected) from None
        if moment < EPOCH:  # negative timestamps have special meanings in Kafka
            raise ValueError(f"{expected}, not before 1970")
    return start


def _topic_name(name: str) -> str:
    if not TOPIC_NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError("expected a name of a Kafka topic: at most 249 letters, digits, dots, underscores and hyphens")
    return name


def _environment_prefix(name: str) -> str:
    if name and not ENVIRONMENT_PREFIX.fullmatch(name):
        raise ValueError("expected at most 30 small letters, digits and hyphens, such as staging, or nothing")
    return name


def _cron_schedule(schedule: str) -> str:
    """Reject what is certainly not a cron schedule. The full check is left to Dagster, which is slow to import."""
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


def parse_times(text: str) -> tuple[time, ...]:
    """Return times of day, in order.

    Args:
        text: one or more as HH:MM, separated by commas.

    Raises:
        ValueError: it is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d\d:\d\d", part) for part in parts):
        raise ValueError("expected a time of day such as 08:00, or several separated by commas")
    return tuple(sorted({time.fromisoformat(part) for part in parts}))


def parse_hours(text: str) -> tuple[time, time] | None:
    """Return the first and the last time of a part of the day, which may contain midnight; None for an empty text.

    Args:
        text: as HH:MM-HH:MM.

    Raises:
        ValueError: it is something else, or both times are the same.
    """
    if not text:
        return None
    begin, _, end = (part.strip() for part in text.partition("-"))
    try:
        (first,), (last,) = parse_times(begin), parse_times(end)
    except ValueError:
        raise ValueError("expected hours such as 22:00-07:00, or nothing") from None
    if first == last:
        raise ValueError("expected hours such as 22:00-07:00 that begin and end at different times, or nothing")
    return first, last


def parse_targets(text: str) -> dict[str, SecretStr]:
    """Return the addresses of targets by their names.

    Args:
        text: name=url, several separated by blanks or line breaks.

    Raises:
        ValueError: it is something else, or a name occurs twice. No part of an address is in the error.
    """
    found: dict[str, SecretStr] = {}
    for number, part in enumerate(text.split(), start=1):
        name, _, url = part.partition("=")
        if not TARGET_NAME.fullmatch(name) or "://" not in url:
            raise ValueError(
                f"expected name=url, several separated by blanks, with a name of small letters, digits, - and _; "
                f"the {number}. is something else. Blanks in an address have to be percent-encoded, as %20"
            )
        if name in found:
            raise ValueError(f"the name {name!r} occurs twice")
        found[name] = SecretStr(url)
    return found


def parse_properties(text: str) -> dict[str, str]:
    """Return properties of Spark, by name, from text such as "spark.executor.memory=2g; spark.executor.cores=2".

    Raises:
        ValueError: a part is not a property.
    """
    found = {}
    for part in filter(None, (each.strip() for each in text.split(";"))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().startswith("spark."):
            raise ValueError(f"expected spark.name=value, separated by semicolons, and {part!r} is not that")
        found[name.strip()] = value.strip()
    return found


def _properties(text: str) -> str:
    parse_properties(text)
    return text


def _master(text: str) -> str:
    # Spark would start for half a minute, three times, before it refused the address.
    if re.fullmatch(r"local(-cluster)?(\[[^\]]+\])?|yarn|(spark|k8s)://\S+", text) is None:
        raise ValueError("expected local[2], spark://host:7077, yarn or k8s://https://host:6443")
    return text


def _times(text: str) -> str:
    parse_times(text)
    return text


def _hours(text: str) -> str:
    parse_hours(text)
    return text


def _targets(text: SecretStr | None) -> SecretStr | None:
    if text is not None:
        parse_targets(text.get_secret_value())
    return text


ProjectPath = Annotated[Path, AfterValidator(_at_project_root)]
ArtifactsPlace = Annotated[str, AfterValidator(_folder_or_prefix)]
CustomersPlace = Annotated[str, AfterValidator(_customers_place)]
WebAddress = Annotated[str | None, AfterValidator(_web_address)]
TokenAddress = Annotated[str | None, AfterValidator(_token_address)]
ProxyAddress = Annotated[str | None, AfterValidator(_ip_address)]
SaslExtensions = Annotated[str | None, AfterValidator(_sasl_extensions)]
UtcDatetime = Annotated[datetime, AfterValidator(_in_utc)]
RepositoryUrl = Annotated[str, AfterValidator(_linkable)]
StreamStart = Annotated[str, AfterValidator(_stream_start)]
StreamProfile = Literal["latency", "balanced", "economy"]
TopicName = Annotated[str, AfterValidator(_topic_name)]
EnvironmentPrefix = Annotated[str, AfterValidator(_environment_prefix)]
CasesFrom = Literal["stream", "file", "both"]
TimezoneName = Annotated[str, AfterValidator(_timezone_name)]
CustomerUrl = Annotated[str, AfterValidator(_customer_url)]
CronSchedule = Annotated[str, AfterValidator(_cron_schedule)]
TimesOfDay = Annotated[str, AfterValidator(_times)]
PartOfDay = Annotated[str, AfterValidator(_hours)]
SparkMaster = Annotated[str, AfterValidator(_master)]
SparkProperties = Annotated[str, AfterValidator(_properties)]
Targets = Annotated[SecretStr | None, AfterValidator(_targets)]
PreparationEngine = Literal["python", "spark"]
AlertMode = Literal["digest", "each"]


class SettingsGroup(BaseModel):
    """Settings of one subject. A field's alias is its environment variable; code uses the field's own name."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # a value may be a password
        allow_inf_nan=False,
        validate_by_alias=True,
        validate_by_name=True,
        validate_default=True,  # a default path is relative to the project's folder, too
    )


class PlatformSettings(SettingsGroup):
    """This installation: its folders, its name, its code's revision."""

    local: ProjectPath = Field(
        default=Path(".local"),
        validation_alias="CHURN_LOCAL",
        description="Folder for the embedded servers' state, the logs and Dagster's own files.",
    )
    customer_schema: ProjectPath = Field(
        default=Path("data/bank/schema.toml"),
        validation_alias="CHURN_SCHEMA",
        description="The TOML file that describes the customers: their columns, features, segments and rules.",
    )
    customers: CustomersPlace = Field(
        default="",
        validation_alias="CHURN_RAW_CSV",
        description="The customers to train on: a file, a folder of files, or s3://bucket/key. Empty: the "
        "customers_file of CHURN_SCHEMA.",
    )
    artifacts: ArtifactsPlace = Field(
        default="",
        validation_alias="CHURN_ARTIFACTS",
        description="Folder or s3://bucket/prefix for Parquet files, model bundles and the archive. In S3 it also "
        "holds Dagster's compute logs and the files of the embedded MLflow. Empty: CHURN_LOCAL/artifacts.",
    )
    environment: EnvironmentPrefix = Field(
        default="",
        validation_alias="CHURN_ENVIRONMENT",
        description="Short name of this environment, such as staging. The names of its topics and of its consumer "
        "group, and with it of its transactional ids, begin with it and a dot, unless their own settings name them. "
        "CLAIMS_TOPIC stays. Empty: no prefix.",
    )
    shown_name: str = Field(
        default="",
        validation_alias="CHURN_ENVIRONMENT_NAME",
        description="Name of this environment in error messages that other environments show. It is identified by an "
        "id in its database. Empty: CHURN_ENVIRONMENT, else the host name and CHURN_LOCAL.",
    )
    log_format: LogFormat = Field(
        default="text",
        validation_alias="LOG_FORMAT",
        description="Form of the logs of the worker, the dashboard, the API and streaming runs: text, or json with one "
        "object in a line. In it, streaming runs name their batch, run and lane.",
    )
    revision: str = Field(
        default="",
        validation_alias="CHURN_REVISION",
        description="Revision of the code, recorded with models and their MLflow runs. An image is built with its own. "
        "Empty: the revision of the git checkout.",
    )

    @property
    def artifacts_root(self) -> str:
        """Root of Parquet files and model bundles: an absolute folder or an s3:// prefix, without a trailing slash."""
        if "://" in self.artifacts:
            return self.artifacts.rstrip("/")
        return str(_at_project_root(Path(self.artifacts)) if self.artifacts else self.local / "artifacts")

    @property
    def environment_name(self) -> str:
        """The name of this environment. The id that identifies it is in its database."""
        return self.shown_name or self.environment or f"{socket.gethostname()}:{self.local}"


class S3Settings(SettingsGroup):
    """S3. The AWS variables are those that every AWS library reads; credentials are left to those libraries."""

    endpoint_url: WebAddress = Field(
        default=None,
        validation_alias="AWS_ENDPOINT_URL_S3",
        description="Address of an S3 server other than AWS. Empty: AWS.",
    )
    region: str | None = Field(
        default=None,
        validation_alias="AWS_DEFAULT_REGION",
        description="Region of the bucket, of secrets in Secrets Manager, and of an Amazon MSK cluster. Empty: the "
        "region of the AWS profile.",
    )
    profile: str | None = Field(
        default=None,
        validation_alias="AWS_PROFILE",
        description="Profile in ~/.aws. Empty: AWS's default credential chain, from the environment to the instance's "
        "role.",
    )
    kms_key_id: str | None = Field(
        default=None,
        validation_alias="S3_KMS_KEY_ID",
        description="KMS key (id, ARN or alias) that encrypts every object. Empty: the bucket's default encryption.",
    )


class PostgresSettings(SettingsGroup):
    """Logins to PostgreSQL. With an address of your own, `churn up` does not start the embedded server."""

    url: SecretStr | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        description="PostgreSQL 14 or newer, postgresql://user:password@host:port/database. It has to be a direct "
        "connection: the stream holds a session lock, which transaction poolers break. Empty: 'churn up' starts one.",
    )
    owner_url: SecretStr | None = Field(
        default=None,
        validation_alias="DATABASE_OWNER_URL",
        description="Login that owns the tables in that PostgreSQL. Only 'churn db upgrade' and the migrations of "
        "'churn up' use it. Empty: DATABASE_URL.",
    )
    reader_url: SecretStr | None = Field(
        default=None,
        validation_alias="DATABASE_READER_URL",
        description="Read-only login for people and dashboards, created by 'churn prepare --logins'. 'churn up' writes "
        "the one of the embedded database to .local/env.",
    )
    retention_url: SecretStr | None = Field(
        default=None,
        validation_alias="DATABASE_RETENTION_URL",
        description="Login of the retention team, which 'churn cases' uses, created by 'churn prepare --logins'. It "
        "reads and changes cases, and never sees the control group. 'churn up' writes the one of the embedded database "
        "to .local/env. Empty: DATABASE_URL.",
    )


class KafkaSettings(SettingsGroup):
    """The Kafka cluster and its security, passed to the client unchanged."""

    bootstrap_servers: str | None = Field(
        default=None,
        validation_alias="KAFKA_BOOTSTRAP_SERVERS",
        description="Kafka brokers, host:port, comma separated. Empty: 'churn up' starts one.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        validation_alias="KAFKA_SECURITY_PROTOCOL",
        description="Protocol between the Kafka client and the brokers.",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"] | None = Field(
        default=None,
        validation_alias="KAFKA_SASL_MECHANISM",
        description="SASL mechanism, with a SASL protocol. OAUTHBEARER needs KAFKA_OAUTH_*; AWS_MSK_IAM needs AWS "
        "credentials and AWS_DEFAULT_REGION.",
    )
    sasl_username: str | None = Field(default=None, validation_alias="KAFKA_SASL_USERNAME", description="SASL user.")
    sasl_password: SecretStr | None = Field(
        default=None, validation_alias="KAFKA_SASL_PASSWORD", description="SASL password."
    )
    oauth_token_url: TokenAddress = Field(
        default=None,
        validation_alias="KAFKA_OAUTH_TOKEN_URL",
        description="Address at which an OAuth server issues tokens for client credentials, such as "
        "https://login.example.com/oauth2/token.",
    )
    oauth_client_id: str | None = Field(
        default=None, validation_alias="KAFKA_OAUTH_CLIENT_ID", description="Id of the client at the OAuth server."
    )
    oauth_client_secret: SecretStr | None = Field(
        default=None, validation_alias="KAFKA_OAUTH_CLIENT_SECRET", description="Secret of that client."
    )
    oauth_scope: str | None = Field(
        default=None, validation_alias="KAFKA_OAUTH_SCOPE", description="Scope of the tokens, if the server needs one."
    )
    oauth_extensions: SaslExtensions = Field(
        default=None,
        validation_alias="KAFKA_OAUTH_EXTENSIONS",
        description="SASL extensions that brokers need, name=value, comma separated, such as Confluent Cloud's "
        "logicalCluster and identityPoolId.",
    )
    oauth_ca_location: ProjectPath | None = Field(
        default=None,
        validation_alias="KAFKA_OAUTH_CA_LOCATION",
        description="File with the certificate of the CA that signed the OAuth server's certificate. Empty: the CAs of "
        "this machine.",
    )
    ssl_ca_location: ProjectPath | None = Field(
        default=None,
        validation_alias="KAFKA_SSL_CA_LOCATION",
        description="File with the certificate of the CA that signed the brokers' certificate.",
    )
    ssl_certificate_location: ProjectPath | None = Field(
        default=None,
        validation_alias="KAFKA_SSL_CERTIFICATE_LOCATION",
        description="Client certificate file, for mutual TLS.",
    )
    ssl_key_location: ProjectPath | None = Field(
        default=None, validation_alias="KAFKA_SSL_KEY_LOCATION", description="Client key file, for mutual TLS."
    )
    request_seconds: float | None = Field(
        default=None,
        validation_alias="KAFKA_REQUEST_SECONDS",
        ge=1,
        le=50,  # librdkafka requires it to be below the timeout of a transaction, 60 s
        description="Timeout of a request to the brokers. Unset: 10 s for requests about topics, 60 s for others.",
    )


class MlflowSettings(SettingsGroup):
    """The MLflow tracking server and the names in it."""

    tracking_uri: str | None = Field(
        default=None,
        validation_alias="MLFLOW_TRACKING_URI",
        description="MLflow tracking server, http://host:port. Empty: 'churn up' starts one.",
    )
    experiment: str = Field(
        default="churn", validation_alias="MLFLOW_EXPERIMENT", description="MLflow experiment of the training runs."
    )
    model: str = Field(
        default="churn_prediction", validation_alias="MLFLOW_MODEL", description="Name of the registered model."
    )


class TopicSettings(SettingsGroup):
    """Kafka topics: their names, and how the platform creates them."""

    events: TopicName = Field(
        default="customer-events",
        validation_alias="EVENTS_TOPIC",
        description="Topic that customer events are read from.",
    )
    predictions: TopicName = Field(
        default="churn-predictions",
        validation_alias="PREDICTIONS_TOPIC",
        description="Topic that predictions are published to.",
    )
    outcomes: TopicName = Field(
        default="customer-outcomes",
        validation_alias="OUTCOMES_TOPIC",
        description="Topic with outcomes: which customers left and which stayed. 'churn outcomes send' creates it if "
        "it is missing.",
    )
    claims: TopicName = Field(
        default="churn-claims",
        validation_alias="CLAIMS_TOPIC",
        description="Topic that records which environment publishes to which topic, and with which consumer group. It "
        "has to be the same for all environments of a Kafka cluster.",
    )
    partitions: int = Field(
        default=3,
        ge=1,
        validation_alias="TOPIC_PARTITIONS",
        description="Kafka partitions of a topic that the platform creates. An existing topic is not changed.",
    )
    replication: int = Field(
        default=1,
        ge=1,
        validation_alias="TOPIC_REPLICATION",
        description="Replicas of a topic that the platform creates.",
    )


class StreamSettings(SettingsGroup):
    """The streaming run: where it starts, and how large its commits and batches are."""

    group: str = Field(
        default="churn-platform",
        validation_alias="STREAM_GROUP",
        description="Consumer group that the published offsets are committed to. Kafka UIs show its lag.",
    )
    start: StreamStart = Field(
        default="earliest",
        validation_alias="STREAM_START",
        description="Where reading of a new topic starts: earliest, latest or an ISO 8601 timestamp.",
    )
    epoch: UtcDatetime = Field(
        default=datetime(2026, 1, 1, tzinfo=UTC),
        validation_alias="STREAM_EPOCH",
        description="First hour of the hourly and daily partitions (UTC). An event from before it is a dead letter.",
    )
    commit_events: int = Field(
        default=30_000,
        ge=1,
        validation_alias="COMMIT_EVENTS",
        description="Maximum number of events in one commit of the stream; n lanes take an n-th of it each.",
    )
    profile: StreamProfile = Field(
        default="balanced",
        validation_alias="STREAM_PROFILE",
        description="How often events are committed and predictions published: latency (often), balanced, or economy "
        "(rarely, which takes the least CPU).",
    )
    batch_events: int = Field(
        default=1_000_000,
        ge=1,
        validation_alias="BATCH_EVENTS",
        description="Number of events at which a batch closes.",
    )
    batch_seconds: float = Field(
        default=300,
        gt=0,
        validation_alias="BATCH_SECONDS",
        description="Seconds from its first event after which a batch closes.",
    )
    idle_seconds: float = Field(
        default=0,
        ge=0,
        validation_alias="IDLE_SECONDS",
        description="Seconds without an event after which a streaming run ends, and the next event waits for the start "
        "of another. 0: a run is always ready.",
    )
    standby: bool = Field(
        default=True, validation_alias="STANDBY", description="Keep one warm run ready to take over while events flow."
    )
    lanes: int = Field(
        default=1,
        ge=1,
        validation_alias="LANES",
        description="Number of streaming runs that read at the same time. Each reads its own Kafka partitions of the "
        "events topic. At most the number of these partitions.",
    )
    scoring_threads: int = Field(
        default=1, ge=1, validation_alias="SCORING_THREADS", description="XGBoost threads that score a commit."
    )


class SparkSettings(SettingsGroup):
    """Spark, which scores replays and backlogs when a run asks for it, and prepares customers if the settings say."""

    environment: ProjectPath = Field(
        default=Path(".venv-spark"),
        validation_alias="SPARK_ENVIRONMENT",
        description="Folder of the Python environment with Spark, as 'make spark' creates it.",
    )
    master: SparkMaster = Field(
        default="local[2]",
        validation_alias="SPARK_MASTER",
        description="Spark's master: local[2] for two cores of this machine, spark://host:7077, yarn or "
        "k8s://https://host:6443.",
    )
    conf: SparkProperties = Field(
        default="",
        validation_alias="SPARK_PROPERTIES",
        description="More properties of Spark, name=value, separated by semicolons, such as "
        "spark.executor.memory=2g; spark.executor.instances=4.",
    )
    task_events: int = Field(
        default=100_000,
        ge=1,
        validation_alias="SPARK_TASK_EVENTS",
        description="Maximum number of offsets that a task of Spark scores and stages in one transaction.",
    )
    backlog_from: int = Field(
        default=0,
        ge=0,
        validation_alias="SPARK_BACKLOG_FROM",
        description="Number of waiting offsets from which the sensor launches a run with Spark, if no run is live and "
        "the latest one has not failed. 0: never.",
    )
    backlog_events: int = Field(
        default=10_000_000,
        ge=1,
        validation_alias="SPARK_BACKLOG_EVENTS",
        description="Maximum number of waiting offsets that a run with Spark reads into its batch.",
    )
    prepares: PreparationEngine = Field(
        default="python",
        validation_alias="PREPARATION_ENGINE",
        description="What prepares the customers file for training. python: the run's own process, which holds the "
        "customers in memory. spark: Spark, for a file that is larger than memory; training then reads its rows "
        "from disk.",
    )
    part_rows: int = Field(
        default=200_000,
        ge=1,
        validation_alias="SPARK_PART_ROWS",
        description="Maximum number of customers that a task of Spark holds in memory when it prepares them.",
    )

    @property
    def properties(self) -> dict[str, str]:
        """The properties of SPARK_PROPERTIES, by name."""
        return parse_properties(self.conf)


class MetricsSettings(SettingsGroup):
    """Hourly and daily metrics."""

    refresh_seconds: float = Field(
        default=60,
        ge=0,
        validation_alias="METRICS_SECONDS",
        description="Seconds from the first event of an hour to its first metrics. Updates of hours and days "
        "are at least five times as long apart.",
    )


class LifecycleSettings(SettingsGroup):
    """How long data is kept."""

    retention_days: int = Field(
        default=14,
        ge=1,
        validation_alias="RETENTION_DAYS",
        description="Days that Kafka keeps events in a topic that the platform creates, and that Dagster keeps "
        "prediction partitions, runs and ticks. A replay cannot go back further.",
    )
    archive_days: int = Field(
        default=90,
        ge=31,
        validation_alias="ARCHIVE_DAYS",
        description="Days after which the predictions of a closed batch move from churn_predictions to Parquet files. "
        "At least 31, because views cover the last 30 days.",
    )


class ScheduleSettings(SettingsGroup):
    """Schedules. All are off until you turn them on in the UI."""

    data_preparation_cron: CronSchedule = Field(
        default="0 2 * * *",
        validation_alias="DATA_PREPARATION_CRON",
        description="When data preparation runs, in cron syntax, UTC.",
    )
    training_cron: CronSchedule = Field(
        default="30 2 * * *",
        validation_alias="TRAINING_CRON",
        description="When training runs, in cron syntax, UTC. It is skipped if data, settings and code have not "
        "changed since the last model.",
    )
    customer_scoring_cron: CronSchedule = Field(
        default="0 3 * * *",
        validation_alias="CUSTOMER_SCORING_CRON",
        description="When the customers of SCORING_FILE are scored, in cron syntax, UTC.",
    )


class MonitoringSettings(SettingsGroup):
    """Drift and live performance."""

    refresh_seconds: float = Field(
        default=600,
        ge=1,
        validation_alias="MONITORING_SECONDS",
        description="Seconds from the first event of an hour to its first drift evaluation; also the minimum between "
        "two evaluations. Days are evaluated a sixth as often. Live performance of the current day is evaluated as "
        "often as hours are, if there are new outcomes.",
    )
    drift_shifted: float = Field(
        default=0.1,
        gt=0,
        validation_alias="DRIFT_SHIFTED",
        description="PSI from which a feature or the score counts as shifted: its check warns.",
    )
    drift_far: float = Field(
        default=0.25,
        gt=0,
        validation_alias="DRIFT_FAR",
        description="PSI from which a feature or the score counts as far off: its check fails, and the platform "
        "requests a new model.",
    )
    drift_least_predictions: int = Field(
        default=500,
        ge=100,
        validation_alias="DRIFT_LEAST_PREDICTIONS",
        description="Minimum number of predictions for the evaluation of an hour or day. Smaller samples differ by "
        "chance.",
    )
    live_window_days: int = Field(
        default=30,
        ge=1,
        le=30,
        validation_alias="LIVE_WINDOW_DAYS",
        description="Days of predictions that live performance covers.",
    )
    live_auc_loss: float = Field(
        default=0.05,
        gt=0,
        validation_alias="LIVE_AUC_LOSS",
        description="Maximum loss of ROC AUC against the out-of-fold value. If the loss is larger, and is not "
        "explained by chance, the check fails and the platform requests a new model.",
    )


class TrainingSettings(SettingsGroup):
    """Threshold, tuning and promotion of a model. A model records them all, so that a change leads to a new one."""

    call_cost: float | None = Field(
        default=None,
        ge=0,
        validation_alias="CALL_COST",
        description="Cost of calling a customer, in any currency. With the next two settings, a model's threshold "
        "maximizes profit; without them, F1.",
    )
    kept_customer_value: float | None = Field(
        default=None,
        gt=0,
        validation_alias="KEPT_CUSTOMER_VALUE",
        description="Value of a customer who stays, in the same currency.",
    )
    call_success_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        validation_alias="CALL_SUCCESS_RATE",
        description="Share of churners who stay because of a call, 0 to 1.",
    )
    tuning_trials: int = Field(
        default=0,
        ge=0,
        validation_alias="TUNING_TRIALS",
        description="Number of trials in the hyperparameter search of a training. Earlier trials on the same rows "
        "count. 0: no search; the committed hyperparameters are used.",
    )
    tuning_seconds: float = Field(
        default=300,
        gt=0,
        le=10_800,  # a run of a batch job is ended after four hours: see orchestration/retries.py
        validation_alias="TUNING_SECONDS",
        description="Seconds after which the search starts no further trial. The best result so far is used.",
    )
    promotion_confidence: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        validation_alias="PROMOTION_CONFIDENCE",
        description="Share of resamples of the rows that have to show a gain over the champion before a new model "
        "replaces it.",
    )
    promotion_slice_loss: float = Field(
        default=0.02,
        ge=0,
        validation_alias="PROMOTION_SLICE_LOSS",
        description="Maximum ROC AUC that a slice of the customers may lose with a new champion.",
    )

    train_on_outcomes: bool = Field(
        default=False,
        validation_alias="TRAIN_ON_OUTCOMES",
        description="Whether predictions whose outcome is known join the customers file in training. Customers who "
        "were called are left out, and those of the control group stand for them: CONTROL_SHARE may not be 0.",
    )

    @property
    def call_costs(self) -> tuple[float, float, float] | None:
        """Cost of a call, value of a customer who stays and success rate, or None where none is set.

        Raises:
            SettingsError: some are set and some are not.
        """
        values = {
            "CALL_COST": self.call_cost,
            "KEPT_CUSTOMER_VALUE": self.kept_customer_value,
            "CALL_SUCCESS_RATE": self.call_success_rate,
        }
        missing = [name for name, value in values.items() if value is None]
        if len(missing) == len(values):
            return None
        if self.call_cost is None or self.kept_customer_value is None or self.call_success_rate is None:
            raise SettingsError(
                f"{' and '.join(missing)} not set: a threshold by cost needs {', '.join(values)}.",
                remedy="Set all three, or none.",
            )
        return self.call_cost, self.kept_customer_value, self.call_success_rate


class ChallengerSettings(SettingsGroup):
    """When a shadow may be promoted, and when a canary is rolled back."""

    shadow_days: float = Field(
        default=0.0,
        ge=0,
        le=365,
        validation_alias="SHADOW_DAYS",
        description="Days for which a version must have scored the stream's events as a shadow before it is promoted. "
        "0: none. It does not apply to the first champion, to a rollback and to MLflow's alias.",
    )
    canary_max_psi: float = Field(
        default=0.25,
        gt=0,
        validation_alias="CANARY_MAX_PSI",
        description="A canary is rolled back if the PSI of its scores against the champion's is above this.",
    )
    canary_max_errors: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        validation_alias="CANARY_MAX_ERRORS",
        description="A canary is rolled back if it fails to score more than this share of its events, 0 to 1.",
    )
    canary_least_predictions: int = Field(
        default=1_000,
        ge=100,
        validation_alias="CANARY_LEAST_PREDICTIONS",
        description="Predictions of a canary, and of the champion since its start, from which their scores are "
        "compared. With 1,000 each, chance gives a PSI of 0.02.",
    )


class RetentionSettings(SettingsGroup):
    """Who is at risk, and whom the retention team calls."""

    high_risk_threshold: float = Field(
        default=0.7,
        gt=0,
        le=1,
        validation_alias="HIGH_RISK_THRESHOLD",
        description="Risk score from which a prediction is high risk and opens a case, above 0 and at most 1. A batch "
        "keeps the threshold that it was opened with.",
    )
    cases_per_day: int = Field(
        default=50,
        ge=1,
        validation_alias="CASES_PER_DAY",
        description="Number of customers that the retention team can call in a day.",
    )
    business_timezone: TimezoneName = Field(
        default="UTC",
        validation_alias="BUSINESS_TIMEZONE",
        description="Time zone of the retention team, such as Europe/Berlin. It decides when a day begins.",
    )
    control_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        validation_alias="CONTROL_SHARE",
        description="Share of the customers who are never called, 0 to 1. Comparing them with the others shows whether "
        "calls help. 0: nobody, and nothing can be compared.",
    )
    cool_off_days: int = Field(
        default=30,
        ge=1,
        validation_alias="CASE_COOL_OFF_DAYS",
        description="Days after a call, or after a case was closed as lost, in which the customer gets no new case. A "
        "customer also counts at most once in these days for the effect of calls.",
    )
    expiry_days: int = Field(
        default=30,
        ge=1,
        validation_alias="CASE_EXPIRY_DAYS",
        description="Days after the customer's latest event from which a case that nobody has called about is closed.",
    )
    cases_from: CasesFrom = Field(
        default="stream",
        validation_alias="CASES_FROM",
        description="Which scores open cases: those of the stream, those of the scored file (SCORING_FILE), or both.",
    )
    scoring_file: CustomersPlace = Field(
        default="",
        validation_alias="SCORING_FILE",
        description="The customers that customer_scoring_job scores: a file, a folder of files, or s3://bucket/key. "
        "Empty: the customers to train on (CHURN_RAW_CSV).",
    )
    outcome_days: int = Field(
        default=60,
        ge=1,
        validation_alias="OUTCOME_DAYS",
        description="Days after a customer entered the call list in which the customer has to leave to count as lost, "
        "when the effect of calls is computed; and after a prediction, when its outcome is used for training, which "
        "needs a larger ARCHIVE_DAYS.",
    )
    customer_url: CustomerUrl = Field(
        default="",
        validation_alias="CUSTOMER_URL",
        description="Address of a customer's page in your own CRM, with {customer_id} where the id belongs, such as "
        "https://crm.example.com/customers/{customer_id}. Empty: cases have no link.",
    )


class AlertSettings(SettingsGroup):
    """Messages about customers to call: to whom, how often and when."""

    targets: Targets = Field(
        default=None,
        validation_alias="ALERT_TARGETS",
        description="Who is told which customers to call: name=url, several separated by blanks. An address is "
        "smtp://, smtps://, http://, https:// or one of Apprise, such as slack://. Only names are stored and logged. "
        "Empty: nobody.",
    )
    mode: AlertMode = Field(
        default="digest",
        validation_alias="ALERT_MODE",
        description="digest: one message with the call list of the day, at ALERT_DIGEST_AT. each: a message for each "
        "customer who comes onto the list, at once.",
    )
    digest_at: TimesOfDay = Field(
        default="08:00",
        validation_alias="ALERT_DIGEST_AT",
        description="Times of day of the digests, in BUSINESS_TIMEZONE, separated by commas.",
    )
    quiet_hours: PartOfDay = Field(
        default="",
        validation_alias="QUIET_HOURS",
        description="Part of the day, in BUSINESS_TIMEZONE, in which nobody is told about customers, such as "
        "22:00-07:00. Messages wait until it ends. Empty: none.",
    )
    max_age: float = Field(
        default=48,
        gt=0,
        validation_alias="ALERT_MAX_AGE",
        description="Hours that a message about customers may wait for a target that does not answer, or for the end "
        "of QUIET_HOURS. An older one ends as failed.",
    )
    attempts: int = Field(
        default=12,
        ge=1,
        validation_alias="ALERT_ATTEMPTS",
        description="Number of attempts to send a message that the receiver did not take. The pauses between them "
        "grow from 30 s to an hour, so 12 attempts take five hours.",
    )


class OperatorSettings(SettingsGroup):
    """Messages to the operators of the platform, and the bounds of the conditions that they are told about."""

    targets: Targets = Field(
        default=None,
        validation_alias="OPERATOR_TARGETS",
        description="Who is told about problems of the platform, in the form of ALERT_TARGETS. Empty: nobody.",
    )
    stalled_seconds: float = Field(
        default=30,
        ge=5,
        validation_alias="STREAM_STALLED_SECONDS",
        description="Seconds without progress, while events wait, after which the stream counts as stalled.",
    )
    max_lag: int = Field(
        default=100_000,
        ge=1,
        validation_alias="STREAM_MAX_LAG",
        description="Number of waiting events above which operators are told.",
    )
    max_dead_letters: float = Field(
        default=0.05,
        gt=0,
        le=1,
        validation_alias="DEAD_LETTER_MAX_SHARE",
        description="Share of dead letters among the events of the latest batches, 0 to 1, above which operators are "
        "told.",
    )
    daemon_silent_seconds: float = Field(
        default=120,
        ge=60,
        validation_alias="DAEMON_SILENT_SECONDS",
        description="Seconds without a heartbeat of Dagster's daemon after which operators are told. It has one every "
        "30 s.",
    )
    champion_max_days: float = Field(
        default=90,
        gt=0,
        validation_alias="CHAMPION_MAX_DAYS",
        description="Days since the training of the champion after which operators are told.",
    )
    disk_min_free: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        validation_alias="DISK_MIN_FREE",
        description="Free share of a disk, 0 to 1, below which operators are told. The disks are those of CHURN_LOCAL "
        "and of CHURN_ARTIFACTS.",
    )

    metrics_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        validation_alias="WORKER_METRICS_HOST",
        description="Address that the worker's metrics for Prometheus are served at. Whoever reaches it can read them: "
        "counts and states of the platform, and no data of customers.",
    )
    metrics_port: int = Field(
        default=9464,
        ge=0,
        le=65535,
        validation_alias="WORKER_METRICS_PORT",
        description="Port of the worker's metrics. 'churn up' chooses another one if it is taken. 0: no metrics.",
    )


class DagsterSettings(SettingsGroup):
    """Where Dagster's web server is, and what its UI shows."""

    url: WebAddress = Field(
        default=None,
        validation_alias="DAGSTER_URL",
        description="Address of Dagster's web server, http://host:port, at which 'churn data prepare', 'churn model "
        "train' and 'churn logs --run' reach it. Empty: that of 'churn up'.",
    )
    run_start_seconds: float = Field(
        default=6,
        ge=0,
        validation_alias="RUN_START_SECONDS",
        description="How long a run usually takes from its request to its first connection to PostgreSQL. Without a "
        "standby, a streaming run is launched this long before the batch of its predecessor closes. 6 for processes, "
        "30 on Kubernetes, 120 on ECS.",
    )
    run_start_timeout_seconds: float = Field(
        default=900,
        ge=600,
        validation_alias="RUN_START_TIMEOUT_SECONDS",
        description="The longest time that a run may take to start while its launcher has no record of it. Then it "
        "counts as dead. A run whose launcher reports that it is starting has start_timeout_seconds in dagster.yaml. "
        "Set both to 1800 on ECS and on Kubernetes, where a run may wait so long for its machine.",
    )
    preview_rows: int = Field(
        default=5,
        ge=0,
        le=50,
        validation_alias="PREVIEW_ROWS",
        description="Number of a table's rows that a materialization shows. They are kept in Dagster's event log. 0: "
        "none.",
    )
    code_url: RepositoryUrl = Field(
        default="",
        validation_alias="CODE_URL",
        description="GitHub or GitLab repository of this code, such as https://github.com/you/churn. Asset pages link "
        "to it. Empty: they show the path of the local file.",
    )
    code_branch: str = Field(
        default="main", validation_alias="CODE_BRANCH", description="Branch, tag or commit that the links lead to."
    )


class DashboardSettings(SettingsGroup):
    """The dashboard for people who do not open Dagster."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        validation_alias="DASHBOARD_HOST",
        description="Address that the dashboard listens at. Other machines reach it only if it is not a loopback "
        "address; then DASHBOARD_USERS or DASHBOARD_PROXY is needed.",
    )
    port: int = Field(
        default=8050,
        ge=1,
        le=65535,
        validation_alias="DASHBOARD_PORT",
        description="Port of 'churn dashboard'. 'churn up' chooses another one if it is taken.",
    )
    url: WebAddress = Field(
        default=None,
        validation_alias="DASHBOARD_URL",
        description="Address under which browsers reach the dashboard, such as https://churn.example.com, if a proxy "
        "is in front of it. With https, its cookie is sent only through HTTPS.",
    )
    users: ProjectPath | None = Field(
        default=None,
        validation_alias="DASHBOARD_USERS",
        description="File of the users who may log in, which 'churn dashboard add-user' writes. Empty: nobody has to "
        "log in, and only this machine reaches the dashboard.",
    )
    session_hours: float = Field(
        default=12,
        gt=0,
        le=720,
        validation_alias="DASHBOARD_SESSION_HOURS",
        description="Hours after which users have to log in again.",
    )
    proxy: ProxyAddress = Field(
        default=None,
        validation_alias="DASHBOARD_PROXY",
        description="IP address of a proxy that has logged users in. Only from there, DASHBOARD_PROXY_HEADER is "
        "believed. A user whom DASHBOARD_USERS does not name is a viewer.",
    )
    proxy_header: str = Field(
        default="X-Forwarded-User",
        pattern=r"^[A-Za-z0-9-]+$",
        validation_alias="DASHBOARD_PROXY_HEADER",
        description="Header in which that proxy names the user.",
    )
    dagster_url: WebAddress = Field(
        default=None,
        validation_alias="DASHBOARD_DAGSTER_URL",
        description="Address of the Dagster UI that pages link to. 'churn up' sets it. Empty: no links.",
    )
    api_url: WebAddress = Field(
        default=None,
        validation_alias="DASHBOARD_API_URL",
        description="Address of the prediction API, which calculates the risk of a customer with other values. "
        "'churn up' sets it. Empty: the dashboard has no form for that.",
    )
    api_token: SecretStr | None = Field(
        default=None,
        validation_alias="DASHBOARD_API_TOKEN",
        description="Token of the dashboard for the prediction API, which 'churn serve add-token' prints. Needed if "
        "API_TOKENS is set.",
    )


class ApiSettings(SettingsGroup):
    """The prediction API."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        validation_alias="API_HOST",
        description="Address that the prediction API listens at. Other machines reach it only if it is not a loopback "
        "address; then API_TOKENS is needed.",
    )
    port: int = Field(
        default=8080,
        ge=1,
        le=65535,
        validation_alias="API_PORT",
        description="Port of 'churn serve'. 'churn up' chooses another one if it is taken.",
    )
    tokens: ProjectPath | None = Field(
        default=None,
        validation_alias="API_TOKENS",
        description="File of the tokens that requests need, which 'churn serve add-token' writes. Empty: requests need "
        "none, and only this machine reaches the API.",
    )
    requests_per_second: float = Field(
        default=2000,
        gt=0,
        validation_alias="API_REQUESTS_PER_SECOND",
        description="Requests a second that each token may make on average. More are answered with 429.",
    )
    max_body_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024,
        validation_alias="API_MAX_BODY_BYTES",
        description="Largest body of a request. A larger one is answered with 413.",
    )


class Settings(SettingsGroup):
    """All settings, by group, and the addresses of the servers that the platform cannot do without.

    Creating it reads nothing: `load_settings` fills it from the environment.
    """

    platform: PlatformSettings = Field(default=PlatformSettings(), title="This installation")
    s3: S3Settings = Field(default=S3Settings(), title="S3")
    postgres: PostgresSettings = Field(default=PostgresSettings(), title="PostgreSQL")
    kafka: KafkaSettings = Field(default=KafkaSettings(), title="Kafka")
    mlflow: MlflowSettings = Field(default=MlflowSettings(), title="MLflow")
    topics: TopicSettings = Field(default=TopicSettings(), title="Topics")
    stream: StreamSettings = Field(default=StreamSettings(), title="Stream")
    spark: SparkSettings = Field(default=SparkSettings(), title="Spark")
    metrics: MetricsSettings = Field(default=MetricsSettings(), title="Metrics")
    lifecycle: LifecycleSettings = Field(default=LifecycleSettings(), title="Data lifecycle")
    schedules: ScheduleSettings = Field(default=ScheduleSettings(), title="Schedules")
    monitoring: MonitoringSettings = Field(default=MonitoringSettings(), title="Monitoring")
    training: TrainingSettings = Field(default=TrainingSettings(), title="Training")
    challengers: ChallengerSettings = Field(default=ChallengerSettings(), title="Challengers")
    retention: RetentionSettings = Field(default=RetentionSettings(), title="Retention")
    alerts: AlertSettings = Field(default=AlertSettings(), title="Alerts")
    operators: OperatorSettings = Field(default=OperatorSettings(), title="Operators")
    dagster: DagsterSettings = Field(default=DagsterSettings(), title="Dagster")
    dashboard: DashboardSettings = Field(default=DashboardSettings(), title="Dashboard")
    api: ApiSettings = Field(default=ApiSettings(), title="Prediction API")

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Self:
        """Return the settings that environment variables describe. Variables of other programs are ignored.

        Names of topics and of the consumer group that are not set begin with CHURN_ENVIRONMENT, if that is.

        Raises:
            ValidationError: a value cannot be used.
        """
        values: dict[str, dict[str, str]] = {name: {} for name in cls.model_fields}
        prefix = variables.get("CHURN_ENVIRONMENT", "")
        for each in descriptions():
            if each.variable in variables:
                values[each.group][each.variable] = variables[each.variable]
            elif each.variable in PREFIXED and ENVIRONMENT_PREFIX.fullmatch(prefix):
                values[each.group][each.variable] = f"{prefix}.{each.field.default}"
        return cls.model_validate(values)

    def value_of(self, setting: "Description") -> object:
        """Return the value of one setting."""
        return getattr(getattr(self, setting.group), setting.name)

    @property
    def variables_set(self) -> set[str]:
        """Environment variables that have set a value, even if it is the default."""
        return {each.variable for each in descriptions() if each.name in getattr(self, each.group).model_fields_set}

    def with_servers(self, *, kafka: str | None = None, postgres: str | None = None) -> Self:
        """Return these settings with the addresses of other servers. None: unchanged."""
        changes: dict[str, SettingsGroup] = {}
        if kafka is not None:
            changes["kafka"] = self.kafka.model_copy(update={"bootstrap_servers": kafka})
        if postgres is not None:
            changes["postgres"] = self.postgres.model_copy(update={"url": SecretStr(postgres)})
        return self.model_copy(update=changes)

    @property
    def postgres_dsn(self) -> str:
        """Connection string of the platform's database.

        Raises:
            SettingsError: no database is configured and the embedded one is not up, or libpq cannot read the string.
        """
        if self.postgres.url is None:
            raise self._missing("DATABASE_URL", "PostgreSQL")
        dsn = self.postgres.url.get_secret_value()
        require_readable("DATABASE_URL", dsn)
        return dsn

    @property
    def reader_dsn(self) -> str:
        """Connection string of the read-only login, else that of the platform.

        Raises:
            SettingsError: no database is configured, libpq cannot read a string, or they name different databases.
        """
        return self._login_dsn("DATABASE_READER_URL", self.postgres.reader_url)

    @property
    def retention_dsn(self) -> str:
        """Connection string of the retention team's login, else that of the platform.

        Raises:
            SettingsError: no database is configured, libpq cannot read a string, or they name different databases.
        """
        return self._login_dsn("DATABASE_RETENTION_URL", self.postgres.retention_url)

    def _login_dsn(self, variable: str, url: SecretStr | None) -> str:
        """Return the connection string of a login to the platform's database; that of the platform if it has none."""
        if url is None:
            return self.postgres_dsn
        from psycopg.conninfo import conninfo_to_dict

        dsn = url.get_secret_value()
        require_readable(variable, dsn)
        places = [
            {name: str(parts.get(name) or "") for name in ("host", "hostaddr", "port", "dbname")}
            for parts in (conninfo_to_dict(dsn), conninfo_to_dict(self.postgres_dsn))
        ]
        if places[0] != places[1]:
            # The file of the embedded servers may name the one, and .env the other.
            ours, platforms = (" ".join(f"{name}={value}" for name, value in each.items() if value) for each in places)
            raise SettingsError(
                f"{variable} names another database ({ours}) than DATABASE_URL ({platforms}).",
                remedy=f"Set {variable} to a login of the same database, with the host written alike.",
            )
        return dsn

    @property
    def bootstrap_servers(self) -> str:
        """Kafka brokers.

        Raises:
            SettingsError: no brokers are configured and the embedded one is not up.
        """
        if self.kafka.bootstrap_servers is None:
            raise self._missing("KAFKA_BOOTSTRAP_SERVERS", "Kafka")
        return self.kafka.bootstrap_servers

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking server.

        Raises:
            SettingsError: no server is configured and the embedded one is not up.
        """
        if self.mlflow.tracking_uri is None:
            raise self._missing("MLFLOW_TRACKING_URI", "MLflow")
        return self.mlflow.tracking_uri

    @property
    def kafka_client(self) -> dict[str, str | int | float | bool]:
        """Configuration that all our Kafka clients share: brokers, security, and a log of warnings and worse.

        It is librdkafka's, apart from the login to Amazon MSK: see kafka/msk_iam.py.

        Raises:
            SettingsError: no brokers are configured and the embedded one is not up, or a login lacks a setting.
        """
        kafka = self.kafka
        configuration = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": kafka.security_protocol,
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.username": kafka.sasl_username,
            "sasl.password": kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
            "ssl.ca.location": kafka.ssl_ca_location,
            "ssl.certificate.location": kafka.ssl_certificate_location,
            "ssl.key.location": kafka.ssl_key_location,
            **self._kafka_login(),
        }
        return {
            "log_level": 4,
            **RECONNECTING,
            **{name: str(value) for name, value in configuration.items() if value is not None},
            **({} if kafka.request_seconds is None else {"socket.timeout.ms": round(kafka.request_seconds * 1000)}),
        }

    def _kafka_login(self) -> dict[str, object]:
        """Return the configuration of a login with tokens."""
        kafka = self.kafka
        if kafka.sasl_mechanism == "OAUTHBEARER":
            secret = kafka.oauth_client_secret
            self._require(
                "KAFKA_SASL_MECHANISM=OAUTHBEARER",
                KAFKA_OAUTH_TOKEN_URL=kafka.oauth_token_url,
                KAFKA_OAUTH_CLIENT_ID=kafka.oauth_client_id,
                KAFKA_OAUTH_CLIENT_SECRET=secret,
            )
            return {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": kafka.oauth_token_url,
                "sasl.oauthbearer.client.id": kafka.oauth_client_id,
                "sasl.oauthbearer.client.secret": secret.get_secret_value() if secret else None,
                "sasl.oauthbearer.scope": kafka.oauth_scope,
                "sasl.oauthbearer.extensions": kafka.oauth_extensions,
                "https.ca.location": kafka.oauth_ca_location,
            }
        if kafka.sasl_mechanism == "AWS_MSK_IAM":
            self._require("KAFKA_SASL_MECHANISM=AWS_MSK_IAM", AWS_DEFAULT_REGION=self.s3.region)
            return {"aws.region": self.s3.region, "aws.profile": self.s3.profile}
        return {}

    @staticmethod
    def _require(what: str, **needed: object) -> None:
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            raise SettingsError(
                f"{' and '.join(missing)} not set: {what} needs {', '.join(needed)}.", remedy="Set what is missing."
            )

    def _missing(self, variable: str, server: str) -> SettingsError:
        return SettingsError(
            f"{variable} is not set and {self.platform.local / 'env'} does not name a running {server}.",
            remedy=f"Start the platform with 'churn up' (without Dagster: 'churn up --services-only'), or set "
            f"{variable} to your own {server}.",
        )


@dataclass(frozen=True)
class Description:
    """A setting: its environment variable, its group in `Settings`, and its name and field in the group."""

    variable: str
    group: str
    name: str
    field: FieldInfo


@cache
def descriptions() -> tuple[Description, ...]:
    """Return a description of every setting, in the order of the groups."""
    return tuple(
        Description(str(field.validation_alias), group, name, field)
        for group, members in groups().items()
        for name, field in members.model_fields.items()
    )


@cache
def secret_variables() -> tuple[str, ...]:
    """Return the environment variables of the settings that are secret: connection strings, passwords and targets."""
    return tuple(
        each.variable
        for each in descriptions()
        if SecretStr in (each.field.annotation, *get_args(each.field.annotation))
    )


def groups() -> dict[str, type[SettingsGroup]]:
    """Return the class of each group, by its name in `Settings`."""
    types = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {name: each for name, each in types.items() if isinstance(each, type) and issubclass(each, SettingsGroup)}


def require_readable(variable: str, dsn: str) -> None:
    """Refuse a connection string that libpq's own errors would show together with its password.

    Args:
        variable: the name of the setting, for the error.
        dsn: a URL or `name=value` pairs.

    Raises:
        SettingsError: it cannot be parsed, or part of the password would be read as a host, a port or a database.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
        # Dagster and MLflow parse it with urlsplit, for which "?" and "#" end a password.
        url = urlsplit(dsn if "://" in dsn else "")
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
            f"{variable} is not a connection string that PostgreSQL can read. It is not shown, because it may contain "
            "a password.",
            remedy="Write it as postgresql://user:password@host:port/database, with special characters in the "
            "password percent-encoded: @ as %40, / as %2F, : as %3A, ? as %3F, # as %23, % as %25.",
        )


def load_settings() -> Settings:
    """Read the settings: the environment, then `.env`, then `.local/env`.

    Raises:
        SettingsError: a value cannot be used, or a name is probably a misspelled setting. No value is shown.
    """
    return parse_settings(_sources())


def load_secret(variable: str) -> str:
    """Return a secret that is no setting, such as the connection string of Dagster's tables.

    It is read as secret settings are: from the same places, and it may be in a file or in AWS Secrets Manager.

    Args:
        variable: its name.

    Raises:
        SettingsError: it is not set, or cannot be read. No value is shown.
    """
    value = resolve_secrets(_sources(), only={variable}).get(variable)
    if value is None:
        raise SettingsError(
            f"{variable} is not set.", remedy=f"Set {variable}, or {variable}{secret_sources.FILE_SUFFIX} to a file."
        )
    return value


def _sources() -> dict[str, dict[str, str]]:
    """Return the variables by their source, the environment last, because it takes precedence.

    Raises:
        SettingsError: a file is not UTF-8 text.
    """
    yours = PROJECT_ROOT / ".env"
    try:
        from_yours = _file_variables(yours)
        local = os.environ.get("CHURN_LOCAL") or from_yours.get("CHURN_LOCAL") or ".local"
        embedded = _at_project_root(Path(local)) / "env"
        from_embedded = _file_variables(embedded)
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{yours} or the file env in CHURN_LOCAL is not UTF-8 text: {error.reason} at byte {error.start}.",
            remedy="Save .env as UTF-8. The other file is written by 'churn up': delete it and run 'churn up' again.",
        ) from error
    environment = {name.upper(): value for name, value in os.environ.items() if value}
    return {str(embedded): from_embedded, str(yours): from_yours, "the environment": environment}


def parse_settings(sources: Mapping[str, Mapping[str, str]]) -> Settings:
    """Return the settings that variables describe.

    Args:
        sources: variables by their source, which errors name. A later source takes precedence.

    Raises:
        SettingsError: a value cannot be used, a secret cannot be read, or a name is probably a misspelled setting. No
            value is shown.
    """
    known = {each.variable for each in descriptions()}
    known |= {name + secret_sources.FILE_SUFFIX for name in secret_variables()}
    problems = [
        f"{name} in {place} is not a setting. Did you mean {closest_name(name, known)}?"
        for place, variables in sources.items()
        for name in sorted(variables)
        if is_probably_ours(name, known)
    ]
    if problems:
        raise SettingsError(
            "\n".join(problems),
            remedy="Correct the name. If it belongs to another program, run churn without it: env -u NAME churn ...",
        )
    try:
        found = Settings.from_variables(resolve_secrets(sources))
    except ValidationError as error:
        invalid = [f"{each['loc'][-1]}: {each['msg']}." for each in error.errors(include_input=False)]
        raise SettingsError(
            "\n".join(invalid), remedy="'churn settings --format markdown' lists the values that a setting accepts."
        ) from error
    if found.training.train_on_outcomes and not found.retention.control_share:
        raise SettingsError(
            "TRAIN_ON_OUTCOMES is on and CONTROL_SHARE is 0: nobody stands for the customers who are called.",
            remedy="Set CONTROL_SHARE above 0, or TRAIN_ON_OUTCOMES to false.",
        )
    if found.training.train_on_outcomes and found.spark.prepares == "spark":
        raise SettingsError(
            "TRAIN_ON_OUTCOMES is on and PREPARATION_ENGINE is spark, which prepares the customers of the file only.",
            remedy="Set PREPARATION_ENGINE to python, or TRAIN_ON_OUTCOMES to false.",
        )
    if found.training.tuning_trials and found.spark.prepares == "spark":
        raise SettingsError(
            f"TUNING_TRIALS is {found.training.tuning_trials} and PREPARATION_ENGINE is spark: a search would hold all "
            f"features in memory.",
            remedy="Search on a smaller file with PREPARATION_ENGINE=python, or set TUNING_TRIALS to 0.",
        )
    found.training.call_costs  # noqa: B018  raises an error if one or two of the three costs are missing
    return found


def resolve_secrets(sources: Mapping[str, Mapping[str, str]], only: Collection[str] | None = None) -> dict[str, str]:
    """Return the variables of all sources, with the values of secrets that are in a file or in AWS Secrets Manager.

    Args:
        sources: variables by their source, which errors name. A later source takes precedence.
        only: the secrets to read; None: all of them.

    Raises:
        SettingsError: a secret cannot be read, or one source has a secret and a file of it. No value is shown.
    """
    wanted = secret_variables() if only is None else only
    try:
        merged = secret_sources.merge(sources, {*secret_variables(), *wanted})
        return secret_sources.resolve(
            merged,
            wanted,
            folder=PROJECT_ROOT,
            aws=AwsLogin(region=merged.get("AWS_DEFAULT_REGION"), profile=merged.get("AWS_PROFILE")),
        )
    except SecretError as error:
        raise SettingsError(error.problem, remedy=error.remedy) from error


def _file_variables(file: Path) -> dict[str, str]:
    """Variables of a .env file, without those that have no value."""
    return {name.upper(): value for name, value in dotenv_values(file).items() if value}


@cache
def settings() -> Settings:
    """Return the settings of this process, read once."""
    return load_settings()
