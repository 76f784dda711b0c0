"""Brokers that require TLS, a password, a certificate or rights: the whole stream, and errors of refused clients."""

import gc
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.database import model_versions
from churn_platform.environments.claims import Claims
from churn_platform.kafka import clients
from churn_platform.kafka.exceptions import BrokerRefusedError, BrokersUnreachableError, KafkaSettingsError
from churn_platform.local.folder import PORTS_FILE
from churn_platform.local.ports import ANY_FREE_PORTS, HOST, Ports
from churn_platform.local.stack import Stack
from churn_platform.operations import status
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.orchestration.resources import kafka as kafka_resource
from churn_platform.settings import SettingsError, parse_settings, settings
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.limits import DEFAULT_LIMITS
from churn_platform_tests.kafka.oauth_server import CLIENTS, SCOPE
from churn_platform_tests.kafka.secured import PASSWORDS, Authority, SecuredBroker, secured_broker
from churn_platform_tests.orchestration.test_stream_sensors import Ticks
from churn_platform_tests.spark.engines import with_spark
from churn_platform_tests.stream.streams import Stream
from churn_platform_tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)
_number = itertools.count(1)
# Maximum number of connections in a request of 5 s: about two a second, where librdkafka's default makes twenty.
FEW = 30


@pytest.fixture(scope="module")
def broker(local_folder: Path) -> Iterator[SecuredBroker]:
    """The secured broker, for all tests of this module."""
    with secured_broker(local_folder / "secured") as broker:
        yield broker


@dataclass
class User:
    """A user who has set the settings of this process, with a separate database and topics."""

    database: str
    monkeypatch: pytest.MonkeyPatch

    def sets(self, environment: dict[str, str]) -> None:
        """Set settings, as if this process had started with them."""
        for name, value in environment.items():
            self.monkeypatch.setenv(name, value)
        settings.cache_clear()

    def stream(self) -> Stream:
        """Return the stream that the settings describe."""
        return Stream(StreamConfig.from_settings(settings()))

    def churn(self, *arguments: str) -> str:
        """Return what the command prints to both streams."""
        outcome = CliRunner(env={"COLUMNS": "2000"}).invoke(app, arguments)
        return outcome.output


@pytest.fixture
def user(stack: Stack, database: str, bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    """A user with a champion in the database and no broker yet."""
    number = next(_number)
    user = User(database, monkeypatch)
    user.sets(
        {
            "DATABASE_URL": database,
            "EVENTS_TOPIC": f"secured-events-{number}",
            "PREDICTIONS_TOPIC": f"secured-predictions-{number}",
            "STREAM_GROUP": f"secured-{number}",
            "IDLE_SECONDS": "1",
        }
    )
    assert stack.is_up
    with psycopg.connect(database) as connection:
        model_versions.register(connection, version=1, uri=bundle_uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)
    yield user
    monkeypatch.undo()
    settings.cache_clear()
    kafka_resource._admin.cache_clear()
    gc.collect()  # clients in the traceback of a refusal would keep connecting to the broker


Credentials = Callable[[SecuredBroker], dict[str, str]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "credentials",
    [SecuredBroker.environment, SecuredBroker.certificate_environment, SecuredBroker.token_environment],
    ids=["password", "certificate", "token"],
)
def test_the_whole_stream_runs_on_a_secured_broker(user: User, broker: SecuredBroker, credentials: Credentials) -> None:
    user.sets(credentials(broker))

    assert "300 events" in user.churn("produce", "--count", "300", "--bad", "0.1", "--seed", "1")

    with user.stream() as stream, dg.DagsterInstance.ephemeral() as instance:
        requested = Ticks(instance, user.database).tick().run_requests
        assert requested is not None
        key = str(requested[0].partition_key)
        stream.materialize(key)
        batch = stream.batch(key)
        assert batch.events == 300
        assert batch.dead_letters > 0
        assert batch.predictions + batch.dead_letters == 300
        assert stream.published_ids() == stream.table_ids()
        assert stream.waiting() == 0
        stream.materialize(key)
        assert stream.batch(key).replays == 1
        assert "0 offsets waiting" in Ticks(instance, user.database).reason()


@pytest.mark.spark
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "credentials",
    [SecuredBroker.environment, SecuredBroker.certificate_environment, SecuredBroker.token_environment],
    ids=["password", "certificate", "token"],
)
def test_spark_logs_in_to_a_secured_broker(user: User, broker: SecuredBroker, credentials: Credentials) -> None:
    user.sets(credentials(broker))
    user.churn("produce", "--count", "50", "--seed", "1")
    with user.stream() as stream, dg.DagsterInstance.ephemeral() as instance:
        requested = Ticks(instance, user.database).tick().run_requests
        assert requested is not None
        key = str(requested[0].partition_key)
        stream.materialize(key)

        with with_spark(stream) as log:
            stream.materialize(key)

        batch = stream.batch(key)
        assert (batch.events, batch.replays) == (50, 1), log.texts
        secrets = {*PASSWORDS.values(), *CLIENTS.values()}
        assert not any(secret in text for text in log.texts for secret in secrets)


@pytest.mark.slow
@pytest.mark.faults
def test_a_refused_client_retries_a_few_times_with_pauses(user: User, broker: SecuredBroker) -> None:
    user.sets(broker.environment(KAFKA_SASL_PASSWORD="wrong-s3cret", KAFKA_REQUEST_SECONDS="5"))  # noqa: S106  a wrong one
    before = broker.refusals()  # this test is before the other refusals, whose clients may keep connecting

    user.churn("produce", "--count", "5")

    assert 1 <= broker.refusals() - before <= FEW


@pytest.mark.slow
def test_a_token_is_renewed_before_it_expires(user: User, broker: SecuredBroker) -> None:
    user.sets(broker.token_environment())
    broker.oauth.lifetime_seconds, broker.oauth.issued[:] = 5, []
    try:
        client = clients.admin(settings().kafka_client)
        wait_until(lambda: len(broker.oauth.issued) >= 3, 60, "two renewals, without a request to the brokers")
        assert client.list_topics(timeout=10).brokers
    finally:
        broker.oauth.lifetime_seconds = 300

    assert set(broker.oauth.issued) == {SCOPE}


def test_a_login_with_tokens_names_what_is_missing(user: User) -> None:
    user.sets({"KAFKA_SASL_MECHANISM": "OAUTHBEARER", "KAFKA_OAUTH_TOKEN_URL": "https://login.example/token"})

    with pytest.raises(SettingsError, match="KAFKA_OAUTH_CLIENT_ID and KAFKA_OAUTH_CLIENT_SECRET not set"):
        assert settings().kafka_client


def test_a_secret_is_not_sent_without_encryption() -> None:
    with pytest.raises(SettingsError, match=r"KAFKA_OAUTH_TOKEN_URL: .*expected https"):
        parse_settings({".env": {"KAFKA_OAUTH_TOKEN_URL": "http://login.example/token"}})


@dataclass(frozen=True)
class Refusal:
    """Settings that do not work, the error that they cause, and words that it must contain."""

    changes: Callable[[SecuredBroker, Path], dict[str, str]]
    error: type[Exception]
    words: tuple[str, ...]


REFUSALS = {
    "wrong password": Refusal(
        lambda _, __: {"KAFKA_SASL_PASSWORD": "wrong-s3cret"},
        BrokerRefusedError,
        ("user 'churn'", "uthentication failed", "KAFKA_SASL_PASSWORD"),
    ),
    "unknown user": Refusal(
        lambda _, __: {"KAFKA_SASL_USERNAME": "nobody"},
        BrokerRefusedError,
        ("user 'nobody'", "uthentication failed", "KAFKA_SASL_USERNAME"),
    ),
    "another mechanism": Refusal(
        lambda _, __: {"KAFKA_SASL_MECHANISM": "PLAIN"},
        BrokerRefusedError,
        ("user 'churn'", "SCRAM-SHA-512", "KAFKA_SASL_MECHANISM"),
    ),
    "wrong secret": Refusal(
        lambda broker, _: broker.token_environment(KAFKA_OAUTH_CLIENT_SECRET="wrong-s3cret"),  # noqa: S106  a wrong one
        BrokerRefusedError,
        ("client 'churn'", "oken", "KAFKA_OAUTH_CLIENT_SECRET"),
    ),
    "unknown OAuth server": Refusal(
        lambda broker, _: broker.token_environment(KAFKA_OAUTH_TOKEN_URL=f"https://{HOST}:1/token"),
        BrokerRefusedError,
        ("client 'churn'", "oken", "KAFKA_OAUTH_TOKEN_URL"),
    ),
    "wrong CA": Refusal(
        lambda _, folder: {"KAFKA_SSL_CA_LOCATION": str(Authority(folder / "stranger", "Stranger").file)},
        BrokerRefusedError,
        ("user 'churn'", "certificate", "KAFKA_SSL_CA_LOCATION"),
    ),
    "no CA file": Refusal(
        lambda _, folder: {"KAFKA_SSL_CA_LOCATION": str(folder / "nowhere.pem")},
        KafkaSettingsError,
        ("ssl.ca.location", "KAFKA_SSL_*"),
    ),
    "no certificate": Refusal(
        lambda broker, _: {
            "KAFKA_BOOTSTRAP_SERVERS": broker.certificate_address,
            "KAFKA_SECURITY_PROTOCOL": "SSL",
        },
        BrokerRefusedError,
        ("certificate required", "KAFKA_SSL_CERTIFICATE_LOCATION"),
    ),
    "no TLS": Refusal(
        lambda _, __: {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
        BrokersUnreachableError,
        ("user 'churn'", "KAFKA_SECURITY_PROTOCOL", "closes the connection"),
    ),
    "unknown host": Refusal(
        lambda _, __: {"KAFKA_BOOTSTRAP_SERVERS": "broker.invalid:9092"},
        BrokersUnreachableError,
        ("Failed to resolve 'broker.invalid:9092'", "KAFKA_BOOTSTRAP_SERVERS"),
    ),
    "wrong port": Refusal(
        lambda _, __: {"KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:1"},
        BrokersUnreachableError,
        (f"{HOST}:1", "Connection refused", "KAFKA_BOOTSTRAP_SERVERS"),
    ),
}


# Each takes ten seconds, for three timeouts. `make test-all` runs only the most frequent one.
IN_EVERY_TEST = "wrong password"


@pytest.mark.slow
@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(refusal, id=name, marks=() if name == IN_EVERY_TEST else pytest.mark.faults)
        for name, refusal in REFUSALS.items()
    ],
)
def test_a_refusal_names_brokers_user_cause_and_setting_and_never_the_password(
    user: User, broker: SecuredBroker, refusal: Refusal, tmp_path: Path
) -> None:
    user.sets({**broker.environment(**refusal.changes(broker, tmp_path)), "KAFKA_REQUEST_SECONDS": "3"})

    with pytest.raises(refusal.error) as of_the_run:
        _run(user)
    with pytest.raises(refusal.error) as of_the_sensor, dg.DagsterInstance.ephemeral() as instance:
        Ticks(instance, user.database).tick()
    produced = user.churn("produce", "--count", "5")

    for said in (str(of_the_run.value), str(of_the_sensor.value), produced):
        for word in (settings().bootstrap_servers, *refusal.words):
            assert word in said
        assert not [password for password in (*PASSWORDS.values(), "wrong-s3cret") if password in said]
    *progress, problem, remedy = produced.strip().splitlines()
    assert "KAFKA_" in remedy
    assert settings().bootstrap_servers in problem
    assert progress in ([], ["Events"]), "no output other than the progress"


def _run(user: User) -> None:
    impatient = replace(DEFAULT_LIMITS, give_up_seconds=0)  # a run retries for a long time if brokers do not answer
    stream = Stream(StreamConfig.from_settings(settings()), impatient)
    stream.connection = psycopg.connect(user.database, autocommit=True)
    with stream.connection:
        stream.materialize(stream.plan())


@pytest.mark.slow
@pytest.mark.faults
def test_status_shows_why_the_users_kafka_does_not_answer(user: User, broker: SecuredBroker, tmp_path: Path) -> None:
    environment = broker.environment(KAFKA_SASL_PASSWORD="wrong-s3cret")  # noqa: S106  a wrong one
    user.sets({**environment, "CHURN_LOCAL": str(tmp_path)})
    ports = Ports(tmp_path / PORTS_FILE, ANY_FREE_PORTS)
    ports.choose()  # as a first start does
    ports.release()

    said = user.churn("status")

    assert "not answering (yours)" in said
    assert f"Kafka at {broker.password_address} refused user 'churn'" in said
    assert "KAFKA_SASL_PASSWORD" in said
    assert "s3cret" not in said


@pytest.mark.slow
@pytest.mark.faults
def test_a_user_without_the_right_to_describe_topics_is_told_which_rights_are_needed(
    user: User, broker: SecuredBroker
) -> None:
    user.sets(broker.environment("intruder"))

    said = user.churn("produce", "--count", "5")

    assert "user 'intruder'" in said
    assert "uthorization failed" in said
    assert "EVENTS_TOPIC" in said
    with pytest.raises(BrokerRefusedError, match="user 'intruder'"):
        _run(user)


def _grant(config: StreamConfig, *rights: tuple[ResourceType, str, AclOperation]) -> None:
    """Grant rights to the intruder."""
    admin = clients.admin(config.kafka.client)
    granted = admin.create_acls(
        [
            AclBinding(
                kind, name, ResourcePatternType.LITERAL, "User:intruder", "*", operation, AclPermissionType.ALLOW
            )
            for kind, name, operation in rights
        ]
    )
    for future in granted.values():
        future.result()


@pytest.mark.slow
def test_a_user_without_the_right_to_read_is_told_so_and_one_with_the_documented_rights_streams(
    user: User, broker: SecuredBroker
) -> None:
    user.sets(broker.environment())
    user.churn("produce", "--count", "30")
    config = StreamConfig.from_settings(settings())
    with Claims(clients.admin(config.kafka.client), config) as claims:
        claims.create_topic()
    _grant(
        config,
        (ResourceType.TOPIC, config.events_topic, AclOperation.DESCRIBE),
        (ResourceType.TOPIC, config.predictions_topic, AclOperation.DESCRIBE),
        (ResourceType.TOPIC, config.predictions_topic, AclOperation.READ),
        (ResourceType.TOPIC, config.predictions_topic, AclOperation.WRITE),
        (ResourceType.TOPIC, config.claims_topic, AclOperation.DESCRIBE),
        (ResourceType.TOPIC, config.claims_topic, AclOperation.READ),
        (ResourceType.TOPIC, config.claims_topic, AclOperation.WRITE),
        (ResourceType.GROUP, config.kafka.group, AclOperation.READ),
        (ResourceType.GROUP, config.kafka.group, AclOperation.DESCRIBE),
        (ResourceType.TRANSACTIONAL_ID, f"{config.kafka.group}-0", AclOperation.WRITE),
        (ResourceType.TRANSACTIONAL_ID, f"{config.kafka.group}-0", AclOperation.DESCRIBE),
    )
    user.sets(broker.environment("intruder"))

    with pytest.raises(BrokerRefusedError, match=r"user 'intruder'.*authorization failed.*read EVENTS_TOPIC"):
        _run(user)

    with user.stream() as stream:
        assert stream.value("select count(*) from churn_predictions") == 0
        _grant(config, (ResourceType.TOPIC, config.events_topic, AclOperation.READ))
        assert stream.stream().events == 30
        assert stream.published_ids() == stream.table_ids()
    with pytest.raises(BrokerRefusedError, match=f"DescribeConfigs on topic {config.predictions_topic}"):
        check_invariants(StreamConfig.from_settings(settings()))
    _grant(config, (ResourceType.TOPIC, config.predictions_topic, AclOperation.DESCRIBE_CONFIGS))
    assert "Every invariant holds" in user.churn("verify")


@pytest.mark.slow
def test_a_user_who_cannot_use_the_claims_topic_is_told_how_to_create_it_and_writes_nothing(
    user: User, broker: SecuredBroker
) -> None:
    user.sets({**broker.environment(), "CLAIMS_TOPIC": f"claims-of-nobody-{next(_number)}"})
    user.churn("produce", "--count", "3")
    config = StreamConfig.from_settings(settings())
    _grant(
        config,
        *((ResourceType.TOPIC, config.events_topic, each) for each in (AclOperation.DESCRIBE, AclOperation.READ)),
        *((ResourceType.TOPIC, config.predictions_topic, each) for each in (AclOperation.DESCRIBE, AclOperation.WRITE)),
        *((ResourceType.GROUP, config.kafka.group, each) for each in (AclOperation.DESCRIBE, AclOperation.READ)),
    )
    user.sets(broker.environment("intruder"))

    with pytest.raises(BrokerRefusedError, match=r"\(CLAIMS_TOPIC\) is needed.*cleanup\.policy=compact"):
        _run(user)

    with user.stream() as stream:
        assert stream.value("select count(*) from stream_positions") == 0


@pytest.mark.slow
def test_status_of_a_user_without_rights_on_the_group_shows_the_rest_and_names_the_group(
    user: User, broker: SecuredBroker
) -> None:
    user.sets(broker.environment())
    user.churn("produce", "--count", "30")
    with user.stream() as stream:
        stream.stream()
    config = StreamConfig.from_settings(settings())
    for topic in (config.events_topic, config.predictions_topic):
        _grant(
            config, (ResourceType.TOPIC, topic, AclOperation.DESCRIBE), (ResourceType.TOPIC, topic, AclOperation.READ)
        )
    user.sets(broker.environment("intruder"))

    found = status.collect_status(StreamConfig.from_settings(settings()))

    assert (sum(each.end for each in found.partitions), found.waiting, found.unpublished) == (30, 0, None)
    (problem,) = found.problems
    assert "user 'intruder'" in problem
    assert "roup authorization failed" in problem
    assert "to read and describe the group STREAM_GROUP" in problem
    assert "does not answer" not in problem
    assert not found.answered


@pytest.mark.slow
@pytest.mark.faults
def test_a_client_pauses_before_it_reconnects_to_a_broker_that_closes_connections(user: User) -> None:
    calls = itertools.count()

    def close_connections(listener: socket.socket) -> None:
        while True:
            try:
                listener.accept()[0].close()
            except OSError:  # the test is over and has closed it
                return
            next(calls)

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=close_connections, args=(listener,), daemon=True).start()
        user.sets({"KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{listener.getsockname()[1]}", "KAFKA_REQUEST_SECONDS": "5"})

        said = user.churn("produce", "--count", "5")
        listener.shutdown(socket.SHUT_RDWR)

    assert "KAFKA_SECURITY_PROTOCOL" in said
    assert 1 <= next(calls) <= FEW
