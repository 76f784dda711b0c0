"""What Spark is started with: options of its Kafka source, the job file, the command."""

import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import SettingsError, parse_settings
from churn_platform.spark import kafka_options, submit
from churn_platform.spark.job_file import Job, job_file
from churn_platform.spark.kafka_options import SparkKafkaError, java_client, source_options
from churn_platform.spark.submit import SparkConfig, SparkMissingError
from churn_platform.stream.backlog_run import share
from churn_platform.stream.commit_rows import Source
from churn_platform.stream.external_scoring import ScoringOrder

BROKERS = {"bootstrap.servers": "broker:9092", "security.protocol": "PLAINTEXT"}


def read(file: str) -> str:
    """Return a text that names the file."""
    return f"content of {file}"


def spark_config(environment: Path, *, master: str = "local[2]", **conf: str) -> SparkConfig:
    """Return a configuration of Spark in this folder."""
    return SparkConfig(environment=environment, master=master, conf=conf, task_events=100, backlog_events=1_000)


def test_the_source_reads_exactly_the_ranges() -> None:
    options = source_options("events", {2: (5, 9), 0: (0, 7)}, BROKERS, task_events=100)

    assert json.loads(options["assign"]) == {"events": [0, 2]}
    assert json.loads(options["startingOffsets"]) == {"events": {"0": 0, "2": 5}}
    assert json.loads(options["endingOffsets"]) == {"events": {"0": 7, "2": 9}}
    assert options["kafka.bootstrap.servers"] == "broker:9092"
    assert options["kafka.isolation.level"] == "read_committed"
    assert options["failOnDataLoss"] == "true"


def test_a_password_is_quoted_as_jaas_reads_it() -> None:
    found = java_client(
        {**BROKERS, "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "app", "sasl.password": 'a"b\\c;'}, read=read
    )

    assert found["sasl.jaas.config"] == (
        'org.apache.kafka.common.security.scram.ScramLoginModule required username="app" password="a\\"b\\\\c;";'
    )


def test_a_login_with_tokens_has_the_clients_secret_and_the_certificate_of_the_oauth_server() -> None:
    found = java_client(
        {
            **BROKERS,
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.oauthbearer.token.endpoint.url": "https://login.example/token",
            "sasl.oauthbearer.client.id": "app",
            "sasl.oauthbearer.client.secret": 'a"b',
            "sasl.oauthbearer.scope": "kafka",
            "sasl.oauthbearer.extensions": "logicalCluster=lkc-1, identityPoolId=pool-1",
            "https.ca.location": "/ca",
        },
        read=lambda file: f"{file}\nsecond line\n",
    )

    assert found["sasl.oauthbearer.token.endpoint.url"] == "https://login.example/token"
    assert found["sasl.jaas.config"] == (
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
        'clientId="app" clientSecret="a\\"b" scope="kafka" '
        'extension_logicalCluster="lkc-1" extension_identityPoolId="pool-1" '
        'ssl.truststore.type="PEM" ssl.truststore.certificates="/ca\\nsecond line\\n";'
    )


def test_certificates_are_copied_so_that_executors_need_no_files() -> None:
    found = java_client(
        {**BROKERS, "ssl.ca.location": "/ca", "ssl.certificate.location": "/crt", "ssl.key.location": "/key"}, read=read
    )

    assert found["ssl.truststore.certificates"] == "content of /ca"
    assert found["ssl.keystore.certificate.chain"] == "content of /crt"
    assert found["ssl.keystore.key"] == "content of /key"


def test_a_login_that_spark_does_not_have_is_refused_before_it_starts() -> None:
    with pytest.raises(SparkKafkaError, match="AWS_MSK_IAM"):
        java_client({**BROKERS, "sasl.mechanism": "AWS_MSK_IAM"}, read=read)


@pytest.mark.parametrize("option", ["kafka.sasl.jaas.config", "kafka.ssl.keystore.key", "kafka.sasl.password"])
def test_spark_hides_options_with_secrets(option: str) -> None:
    import re

    assert re.search(kafka_options.SECRET_OPTIONS, option)


def test_the_job_file_is_read_as_it_was_written_and_is_for_its_owner_only(bank_schema: CustomerSchema) -> None:
    job = Job(
        order=ScoringOrder(
            attempt=UUID(int=7),
            source=Source(batch="batch", topic="events", topic_id="id"),
            ranges={0: (1, 2), 3: (4, 5)},
            schema=bank_schema,
            accepts_from=datetime(2026, 1, 1, tzinfo=UTC),
            accepts_until=datetime(2026, 2, 1, tzinfo=UTC),
            model_version=3,
            model_uri="s3://bucket/models/3",
        ),
        dsn="postgresql://app:secret@host/churn",
        kafka={"sasl.jaas.config": "secret"},
        task_events=100,
    )

    with job_file(job.to_json()) as file:
        assert Job.from_json(file.read_text()) == job
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not file.parent.exists()
    assert "secret" not in repr(job)


def test_the_command_has_no_secret_and_the_users_properties_win(tmp_path: Path) -> None:
    config = spark_config(tmp_path, master="spark://host:7077", **{"spark.log.level": "INFO"})

    command = submit.command(config, submit.SCORING, Path("/job"), name="churn batch")

    assert command[0] == str(tmp_path / "bin" / "spark-submit")
    assert command[command.index("--master") + 1] == "spark://host:7077"
    assert "spark.log.level=INFO" in command
    assert "spark.driver.host=127.0.0.1" not in command
    assert command[-2:] == [str(submit.SCORING), "/job"]


@pytest.mark.parametrize(("master", "used"), [("local[2]", "local[2,4]"), ("local[*]", "local[*,4]"), ("yarn", "yarn")])
def test_a_local_master_repeats_failed_tasks(tmp_path: Path, master: str, used: str) -> None:
    command = submit.command(spark_config(tmp_path, master=master), submit.SCORING, Path("/job"), name="churn batch")

    assert command[command.index("--master") + 1] == used


def test_missing_spark_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(SparkMissingError, match="make spark"):
        spark_config(tmp_path).require_installed()


def test_properties_are_separated_by_semicolons() -> None:
    text = "spark.executor.memory=2g; spark.executor.extraJavaOptions=-Dname=value;"
    settings = parse_settings({"environment": {"SPARK_PROPERTIES": text}})

    assert settings.spark.properties == {
        "spark.executor.memory": "2g",
        "spark.executor.extraJavaOptions": "-Dname=value",
    }


def test_text_that_is_no_property_is_refused() -> None:
    with pytest.raises(SettingsError, match="SPARK_PROPERTIES"):
        parse_settings({"environment": {"SPARK_PROPERTIES": "executor.memory=2g"}})


@pytest.mark.parametrize(
    ("waiting", "most", "shares"),
    [
        ({0: 10, 1: 10, 2: 10}, 15, {0: 5, 1: 5, 2: 5}),
        ({0: 1, 1: 100, 2: 100}, 21, {0: 1, 1: 10, 2: 10}),
        ({0: 0, 1: 3}, 100, {1: 3}),
        ({0: -2, 1: 0}, 100, {}),
        ({0: 10, 1: 10, 2: 10}, 1, {2: 1}),
    ],
)
def test_a_bound_is_shared_among_partitions(waiting: dict[int, int], most: int, shares: dict[int, int]) -> None:
    assert share(waiting, most=most) == shares


@pytest.mark.parametrize(
    "master", ["local", "local[*]", "local[4,2]", "yarn", "spark://a:7077,b:7077", "k8s://https://a"]
)
def test_addresses_of_a_master_are_accepted(master: str) -> None:
    assert parse_settings({"environment": {"SPARK_MASTER": master}}).spark.master == master
