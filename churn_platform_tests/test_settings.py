"""How settings are read: which source takes precedence, and what is rejected."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from churn_platform.settings import (
    PROJECT_ROOT,
    PlatformSettings,
    Settings,
    SettingsError,
    StreamSettings,
    TopicSettings,
    TrainingSettings,
    descriptions,
    parse_settings,
)


def test_the_environment_takes_precedence_over_the_files_and_an_unset_value_is_the_default() -> None:
    found = parse_settings(
        {
            ".local/env": {"BATCH_SECONDS": "1", "IDLE_SECONDS": "1", "DATABASE_URL": "postgresql://embedded/churn"},
            ".env": {"BATCH_SECONDS": "2", "IDLE_SECONDS": "2"},
            "the environment": {"BATCH_SECONDS": "3"},
        }
    )

    assert (found.stream.batch_seconds, found.stream.idle_seconds) == (3, 2)
    assert found.postgres.url == SecretStr("postgresql://embedded/churn")
    assert found.stream.profile == StreamSettings().profile
    assert found.variables_set == {"BATCH_SECONDS", "IDLE_SECONDS", "DATABASE_URL"}


@pytest.mark.parametrize("place", [".env", "the environment"])
def test_a_misspelled_name_is_rejected_in_every_source_and_no_value_is_shown(place: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        parse_settings({place: {"KAFKA_SASL_PASWORD": "s3cret", "CHURN_LOCALE": "x"}})

    assert refusal.value.problem.splitlines() == [
        f"CHURN_LOCALE in {place} is not a setting. Did you mean CHURN_LOCAL?",
        f"KAFKA_SASL_PASWORD in {place} is not a setting. Did you mean KAFKA_SASL_PASSWORD?",
    ]
    assert "s3cret" not in str(refusal.value)


def test_values_that_cannot_be_used_are_reported_together_and_not_shown() -> None:
    with pytest.raises(SettingsError) as refusal:
        parse_settings({".env": {"BATCH_SECONDS": "soon", "KAFKA_SECURITY_PROTOCOL": "TLS"}})

    first, second = sorted(refusal.value.problem.splitlines())
    assert first.startswith("BATCH_SECONDS: Input should be a valid number")
    assert second.startswith("KAFKA_SECURITY_PROTOCOL: Input should be 'PLAINTEXT'")
    assert "soon" not in str(refusal.value)


def test_variables_of_other_programs_are_ignored() -> None:
    assert parse_settings({"the environment": {"PATH": "/bin", "PGPORT": "1", "KAFKA_HOME": "/opt"}}) == Settings()


def test_creating_settings_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SECONDS", "soon")

    assert Settings().stream.batch_seconds == 300


def test_no_two_settings_share_a_variable() -> None:
    variables = [each.variable for each in descriptions()]

    assert len(variables) == len(set(variables))
    assert all(variable.isupper() for variable in variables)


def test_paths_are_relative_to_the_project_and_times_are_in_utc() -> None:
    found = Settings.from_variables({"CHURN_LOCAL": "here", "STREAM_EPOCH": "2026-03-01T02:00:00+02:00"})

    assert found.platform.local == PROJECT_ROOT / "here"
    assert found.stream.epoch == datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("artifacts", "root"),
    [
        ("", "/state/artifacts"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("/elsewhere", "/elsewhere"),
        ("data/made", str(PROJECT_ROOT / "data/made")),
    ],
)
def test_the_artifacts_root_is_absolute(artifacts: str, root: str) -> None:
    assert PlatformSettings(local=Path("/state"), artifacts=artifacts).artifacts_root == root


def test_the_names_of_an_environment_begin_with_its_own_unless_they_are_set() -> None:
    found = parse_settings({".env": {"CHURN_ENVIRONMENT": "staging", "EVENTS_TOPIC": "customer-events"}})

    assert found.topics.events == "customer-events"
    assert found.topics.predictions == "staging.churn-predictions"
    assert found.topics.outcomes == "staging.customer-outcomes"
    assert found.stream.group == "staging.churn-platform"
    assert found.topics.claims == TopicSettings().claims  # the same for all environments
    assert found.platform.environment_name == "staging"


def test_without_an_environment_the_names_have_no_prefix() -> None:
    assert parse_settings({}).topics == TopicSettings()


@pytest.mark.parametrize("name", ["two words", "a.b", "Staging", "a" * 31, "-a"])
def test_a_name_that_cannot_begin_others_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"CHURN_ENVIRONMENT: .*small letters, digits and hyphens"):
        parse_settings({".env": {"CHURN_ENVIRONMENT": name}})


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("KAFKA_OAUTH_EXTENSIONS", "a b=c,,", "name=value, comma separated"),
        ("KAFKA_OAUTH_EXTENSIONS", "logicalCluster=lkc-1,", "name=value, comma separated"),
        ("CANARY_MAX_PSI", "inf", "a finite number"),
        ("CANARY_MAX_PSI", "nan", "a finite number"),
    ],
)
def test_a_value_that_a_client_or_a_rule_cannot_use_is_refused(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}: .*{expected}"):
        parse_settings({".env": {variable: value}})


def test_sasl_extensions_may_have_spaces_after_commas() -> None:
    extensions = "logicalCluster=lkc-1, identityPoolId=pool-a=b"

    assert parse_settings({".env": {"KAFKA_OAUTH_EXTENSIONS": extensions}}).kafka.oauth_extensions == extensions


def test_costs_are_all_set_or_none() -> None:
    assert TrainingSettings().call_costs is None
    assert TrainingSettings(call_cost=1, kept_customer_value=20, call_success_rate=0.5).call_costs == (1, 20, 0.5)
    with pytest.raises(SettingsError, match="KEPT_CUSTOMER_VALUE and CALL_SUCCESS_RATE not set"):
        _ = TrainingSettings(call_cost=1).call_costs


def test_a_server_that_is_neither_set_nor_up_is_named_with_what_to_do() -> None:
    with pytest.raises(SettingsError, match=r"DATABASE_URL is not set .*churn up") as refusal:
        _ = Settings(platform=PlatformSettings(local=Path("/state"))).postgres_dsn

    assert "/state/env does not name a running PostgreSQL" in refusal.value.problem


def test_other_servers_replace_the_configured_ones() -> None:
    before = Settings.from_variables({"KAFKA_BOOTSTRAP_SERVERS": "one:9092", "DATABASE_URL": "postgresql://one/churn"})

    after = before.with_servers(kafka="two:9092")

    assert (after.bootstrap_servers, after.postgres_dsn) == ("two:9092", "postgresql://one/churn")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BUSINESS_TIMEZONE", "Berlin"),
        ("BUSINESS_TIMEZONE", "../etc/passwd"),
        ("CUSTOMER_URL", "https://crm.example.com/customers"),
        ("CUSTOMER_URL", "javascript:alert({customer_id})"),
        ("CUSTOMER_URL", "https://crm.example.com/{name}/{customer_id}"),
        ("CONTROL_SHARE", "1"),
        ("HIGH_RISK_THRESHOLD", "0"),
        ("HIGH_RISK_THRESHOLD", "70"),
        ("CASES_PER_DAY", "0"),
    ],
)
def test_a_retention_setting_that_cannot_be_used_is_rejected(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        parse_settings({".env": {variable: value}})


def test_a_retention_login_to_another_database_is_rejected_without_its_password() -> None:
    found = parse_settings(
        {
            ".local/env": {"DATABASE_RETENTION_URL": "postgresql://team:s3cret@127.0.0.1:5432/churn"},
            ".env": {"DATABASE_URL": "postgresql://app:s3cret@db.example:5432/churn"},
        }
    )

    with pytest.raises(SettingsError, match=r"host=127\.0\.0\.1 .* than DATABASE_URL \(host=db\.example") as refusal:
        assert found.retention_dsn
    assert "s3cret" not in str(refusal.value)
    assert parse_settings({".env": {"DATABASE_URL": "postgresql://app@db/churn"}}).retention_dsn.endswith("@db/churn")
