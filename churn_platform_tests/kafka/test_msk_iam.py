"""Tokens for Amazon MSK: what is in them, when they expire, and who asks for the next one. No request reaches AWS."""

import base64
import os
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from churn_platform.kafka import clients
from churn_platform.kafka.exceptions import KafkaSettingsError
from churn_platform.kafka.msk_iam import token_source
from churn_platform.local.ports import HOST
from churn_platform.settings import SettingsError, parse_settings

KEY, SECRET = "AKIDEXAMPLE", "s3cret"
REGION = "eu-central-1"
LIFETIME_SECONDS = 900


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which the AWS libraries find nothing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def credentials(no_credentials: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Credentials in the environment."""
    no_credentials.setenv("AWS_ACCESS_KEY_ID", KEY)
    no_credentials.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return no_credentials


def signed(token: str) -> dict[str, str]:
    """Return the parameters of the address that a token consists of."""
    address = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    assert (address.scheme, address.hostname) == ("https", f"kafka.{REGION}.amazonaws.com")
    return {name: values[0] for name, values in parse_qs(address.query).items()}


@pytest.mark.usefixtures("credentials")
def test_a_token_is_a_signed_address_that_expires() -> None:
    before = time.time()

    token, expires = token_source(REGION, None)("")

    parameters = signed(token)
    assert parameters["Action"] == "kafka-cluster:Connect"
    assert parameters["X-Amz-Credential"].startswith(f"{KEY}/")
    assert parameters["X-Amz-Credential"].endswith(f"/{REGION}/kafka-cluster/aws4_request")
    assert parameters["X-Amz-Expires"] == str(LIFETIME_SECONDS)
    assert len(parameters["X-Amz-Signature"]) == 64
    assert before - 1 <= expires - LIFETIME_SECONDS <= time.time()
    assert SECRET not in str(parameters)


def test_the_next_token_has_the_credentials_of_its_time(credentials: pytest.MonkeyPatch) -> None:
    source = token_source(REGION, None)
    first, _ = source("")
    credentials.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
    credentials.setenv("AWS_SESSION_TOKEN", "session")

    parameters = signed(source("")[0])

    assert signed(first)["X-Amz-Credential"].startswith(KEY)
    assert parameters["X-Amz-Credential"].startswith("AKIDROTATED/")
    assert parameters["X-Amz-Security-Token"] == "session"


@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize("profile", [None, "missing"])
def test_missing_credentials_are_reported_at_once(profile: str | None) -> None:
    with pytest.raises(KafkaSettingsError, match="no AWS credentials") as refusal:
        token_source(REGION, profile)

    assert "AWS_PROFILE" in refusal.value.remedy


@pytest.mark.usefixtures("credentials")
def test_a_client_logs_in_with_the_token() -> None:
    given = {
        "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:1",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "AWS_MSK_IAM",
        "AWS_DEFAULT_REGION": REGION,
    }

    client = clients.admin(
        parse_settings({".env": given}).kafka_client
    )  # without a token, librdkafka refuses after 10 s

    assert client.errors.settings["sasl.mechanism"] == "AWS_MSK_IAM"


def test_the_region_of_the_cluster_is_needed() -> None:
    given = {"KAFKA_BOOTSTRAP_SERVERS": "b-1.example:9098", "KAFKA_SASL_MECHANISM": "AWS_MSK_IAM"}

    with pytest.raises(SettingsError, match="AWS_DEFAULT_REGION not set"):
        assert parse_settings({".env": given}).kafka_client
