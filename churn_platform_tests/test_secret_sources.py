"""Secrets from files and from AWS Secrets Manager, and what errors say about them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import boto3
import httpx
import pytest
from mypy_boto3_secretsmanager import SecretsManagerClient
from pydantic import SecretStr

from churn_platform import secret_sources
from churn_platform.local.environment import process_environment, shell_environment, your_database_owner, your_servers
from churn_platform.local.ports import HOST, Ports
from churn_platform.settings import Settings, SettingsError, load_secret, parse_settings, secret_variables
from churn_platform_tests.files.s3_server import ANYBODY, REGION, connection
from churn_platform_tests.waiting import wait_until

SECRET = "s3cret/with@signs"  # noqa: S105  used by no server
NO_ENV_FILE = Path(os.devnull)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a secret and the line break that an editor adds."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    return file


@pytest.fixture(scope="module")
def secrets_manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Secrets Manager: moto's, in a process of its own."""
    ports = Ports(tmp_path_factory.mktemp("secrets") / "ports.json", {"secrets": 0})
    ports.choose()
    url = f"http://{HOST}:{ports['secrets']}"
    ports.release()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", HOST, "--port", url.rpartition(":")[2]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _answers(url), 60, "moto to answer")
        yield url
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/moto-api/", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def manager(secrets_manager: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretsManagerClient]:
    """A client that stores secrets. The AWS libraries of this process use the same server, with the same rights."""
    httpx.post(f"{secrets_manager}/moto-api/reset", trust_env=False).raise_for_status()
    for name, value in {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": secrets_manager,
        "AWS_ACCESS_KEY_ID": ANYBODY,
        "AWS_SECRET_ACCESS_KEY": ANYBODY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    _forget()
    with closing(boto3.client("secretsmanager", **connection(secrets_manager, key=ANYBODY, secret=ANYBODY))) as client:
        yield client
    _forget()


def _forget() -> None:
    secret_sources._aws_secret.cache_clear()


def _read(**variables: str) -> Settings:
    return parse_settings({".env": {"AWS_DEFAULT_REGION": REGION, **variables}})


def test_every_secret_may_be_in_a_file(file: Path) -> None:
    assert {"DATABASE_URL", "KAFKA_SASL_PASSWORD", "ALERT_TARGETS"} < set(secret_variables())

    found = parse_settings({".env": {"KAFKA_SASL_PASSWORD_FILE": str(file), "DATABASE_OWNER_URL_FILE": str(file)}})

    assert found.kafka.sasl_password == found.postgres.owner_url == SecretStr(SECRET)
    assert found.variables_set == {"KAFKA_SASL_PASSWORD", "DATABASE_OWNER_URL"}


def test_only_line_breaks_at_the_end_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(f" {SECRET} \r\n\n".encode())

    assert _read(KAFKA_SASL_PASSWORD_FILE=str(file)).kafka.sasl_password == SecretStr(f" {SECRET} ")


def test_a_secret_and_its_file_in_one_source_are_refused(file: Path) -> None:
    with pytest.raises(SettingsError) as refusal:
        _read(KAFKA_SASL_PASSWORD=SECRET, KAFKA_SASL_PASSWORD_FILE=str(file))

    assert refusal.value.problem == "KAFKA_SASL_PASSWORD and KAFKA_SASL_PASSWORD_FILE are both set in .env."
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("first", ["KAFKA_SASL_PASSWORD", "KAFKA_SASL_PASSWORD_FILE"])
def test_a_later_source_replaces_a_secret_and_a_file_alike(tmp_path: Path, first: str) -> None:
    files = {name: tmp_path / name for name in ("one", "two")}
    for name, each in files.items():
        each.write_text(name)
    values = {"KAFKA_SASL_PASSWORD": "two", "KAFKA_SASL_PASSWORD_FILE": str(files["two"])}
    (second,) = values.keys() - {first}
    earlier = {first: "one" if first == "KAFKA_SASL_PASSWORD" else "/missing/and/not/read"}

    found = parse_settings({".env": earlier, "the environment": {second: values[second]}})

    assert found.kafka.sasl_password == SecretStr("two")


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "secret"
    os.mkfifo(pipe)

    with pytest.raises(SettingsError) as refusal:
        _read(KAFKA_SASL_PASSWORD_FILE=str(pipe))

    assert refusal.value.problem == f"KAFKA_SASL_PASSWORD_FILE names {pipe}, which is not a regular file."


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\n", "is empty"),
        (b"\xff" + SECRET.encode(), "is not UTF-8 text"),
        (SECRET.encode() * 10_000, "has more than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_shown(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(SettingsError) as refusal:
        _read(KAFKA_SASL_PASSWORD_FILE=str(file))

    assert refusal.value.problem == f"KAFKA_SASL_PASSWORD_FILE names {file}, which {expected}."
    assert SECRET not in str(refusal.getrepr(style="long", showlocals=False))


def test_a_misspelled_file_of_a_secret_is_refused(file: Path) -> None:
    with pytest.raises(SettingsError, match="Did you mean KAFKA_SASL_PASSWORD_FILE"):
        _read(KAFKA_SASL_PASSWORD_FLIE=str(file))


def test_the_stack_uses_a_database_whose_address_is_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://churn:pw@db.example/churn\n")
    given = {"DATABASE_URL_FILE": str(file), "DATABASE_OWNER_URL_FILE": str(file)}

    yours = your_servers(given, NO_ENV_FILE)

    assert yours == {"postgres": "postgresql://churn:pw@db.example/churn"}
    assert your_database_owner(given, NO_ENV_FILE) == yours["postgres"]
    addresses = {"kafka": "kafka:9092", "mlflow": "http://mlflow:5000", **yours}
    for environment in (
        {**given, **shell_environment(local=tmp_path, addresses=addresses, embedded={"kafka", "mlflow"})},
        process_environment(given, local=tmp_path, addresses=addresses, embedded={"kafka", "mlflow"}),
    ):
        # As `load_settings` reads an environment: an empty value counts as not set.
        found = parse_settings({"the environment": {name: value for name, value in environment.items() if value}})
        assert found.postgres_dsn == yours["postgres"]
    assert "DATABASE_OWNER_URL_FILE" not in environment


def test_a_secret_comes_from_secrets_manager(manager: SecretsManagerClient) -> None:
    manager.create_secret(Name="churn/kafka", SecretString=SECRET)

    assert _read(KAFKA_SASL_PASSWORD="aws-secretsmanager:churn/kafka").kafka.sasl_password == SecretStr(SECRET)  # noqa: S106


def test_one_value_of_a_json_secret_is_read_in_the_region_of_its_arn(manager: SecretsManagerClient) -> None:
    arn = manager.create_secret(Name="churn", SecretString=json.dumps({"kafka": SECRET, "other": "x"}))["ARN"]

    found = parse_settings({".env": {"KAFKA_SASL_PASSWORD": f"aws-secretsmanager:{arn}#kafka"}})

    assert found.kafka.sasl_password == SecretStr(SECRET)


def test_a_process_asks_once(manager: SecretsManagerClient) -> None:
    manager.create_secret(Name="churn/kafka", SecretString="first")
    reference = {"KAFKA_SASL_PASSWORD": "aws-secretsmanager:churn/kafka"}
    _read(**reference)
    manager.put_secret_value(SecretId="churn/kafka", SecretString="second")

    assert _read(**reference).kafka.sasl_password == SecretStr("first")
    _forget()
    assert _read(**reference).kafka.sasl_password == SecretStr("second")


@pytest.mark.parametrize(
    ("reference", "problem", "remedy"),
    [
        ("aws-secretsmanager:", "KAFKA_SASL_PASSWORD is 'aws-secretsmanager:'", "NAME#KEY"),
        ("aws-secretsmanager:churn#", "KAFKA_SASL_PASSWORD is 'aws-secretsmanager:churn#'", "NAME#KEY"),
        ("aws-secretsmanager:missing", "the secret missing of AWS Secrets Manager", "Correct the name"),
        ("aws-secretsmanager:plain#key", "the secret plain, which is not a JSON object", "Leave out the #"),
        ("aws-secretsmanager:json#missing", "It has the keys name, number.", "Correct the key"),
        ("aws-secretsmanager:json#number", "the key 'number' of the secret json, which has no text", "Correct the key"),
        ("aws-secretsmanager:binary", "the secret binary, which is binary or empty", "as text"),
    ],
)
def test_a_reference_that_leads_to_no_value_is_refused_and_no_value_is_shown(
    manager: SecretsManagerClient, reference: str, problem: str, remedy: str
) -> None:
    manager.create_secret(Name="plain", SecretString=SECRET)
    manager.create_secret(Name="json", SecretString=json.dumps({"name": SECRET, "number": 1}))
    manager.create_secret(Name="binary", SecretBinary=SECRET.encode())

    with pytest.raises(SettingsError) as refusal:
        _read(KAFKA_SASL_PASSWORD=reference)

    assert problem in refusal.value.problem
    assert remedy in refusal.value.remedy
    assert SECRET not in str(refusal.getrepr(style="long", showlocals=False))


def test_credentials_that_aws_does_not_know_are_reported(manager: SecretsManagerClient, secrets_manager: str) -> None:
    manager.create_secret(Name="churn/kafka", SecretString=SECRET)
    httpx.post(f"{secrets_manager}/moto-api/reset-auth", content="0", trust_env=False).raise_for_status()
    try:
        with pytest.raises(SettingsError, match="InvalidClientTokenId") as refusal:
            _read(KAFKA_SASL_PASSWORD="aws-secretsmanager:churn/kafka")  # noqa: S106
    finally:
        httpx.post(f"{secrets_manager}/moto-api/reset-auth", content="inf", trust_env=False).raise_for_status()

    assert refusal.value.remedy.startswith("Give AWS credentials of this account")


def test_a_service_that_does_not_answer_is_reported(
    manager: SecretsManagerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert manager.list_secrets()["SecretList"] == []
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://{HOST}:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    with pytest.raises(SettingsError, match="Let this machine reach Secrets Manager"):
        _read(KAFKA_SASL_PASSWORD="aws-secretsmanager:churn/kafka")  # noqa: S106


def test_without_a_region_the_setting_for_it_is_named(manager: SecretsManagerClient) -> None:
    assert manager.list_secrets()["SecretList"] == []
    with pytest.raises(SettingsError, match="Set AWS_DEFAULT_REGION"):
        parse_settings({".env": {"KAFKA_SASL_PASSWORD": "aws-secretsmanager:churn/kafka"}})


@pytest.mark.parametrize("variable", ["DAGSTER_POSTGRES_URL", "MLFLOW_BACKEND_STORE_URI"])
def test_the_addresses_of_dagsters_and_mlflows_tables_follow_the_same_rules(
    manager: SecretsManagerClient, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.create_secret(Name="churn/tables", SecretString="postgresql://from-aws")
    (tmp_path / "address").write_text("postgresql://from-a-file\n")
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CHURN_LOCAL", str(tmp_path / "no-stack"))  # whose file would have the address
    with pytest.raises(SettingsError, match=f"{variable} is not set"):
        load_secret(variable)

    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv(variable, "aws-secretsmanager:churn/tables")
    assert load_secret(variable) == "postgresql://from-aws"
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "address"))
    with pytest.raises(SettingsError, match="are both set in the environment"):
        load_secret(variable)
    monkeypatch.delenv(variable)
    assert load_secret(variable) == "postgresql://from-a-file"
