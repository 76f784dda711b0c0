"""The files in deploy/ecs and deploy/kubernetes agree with the repository's dagster.yaml and with each other."""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cfnlint.decode import cfn_yaml

from churn_platform.orchestration.ecs_run_launcher import GIVE_UP_SECONDS
from churn_platform.settings import PROJECT_ROOT, descriptions
from churn_platform_tests.ecs.deployment import TEMPLATE

# What a deployment changes. Everything else is as in the repository's file.
CHANGED: Final = {"run_launcher", "storage", "compute_logs", "run_monitoring", "concurrency"}
ECS: Final = PROJECT_ROOT / "deploy/ecs/dagster.yaml"
KUBERNETES: Final = PROJECT_ROOT / "deploy/kubernetes/dagster.yaml"
# CloudFormation accepts a larger template only from a bucket, and `aws cloudformation deploy` then needs --s3-bucket.
LARGEST_TEMPLATE: Final = 51_200
# Variables that dagster.yaml, workspace.yaml, Dagster or a command in the template reads.
OF_OTHERS: Final = {"CODE_SERVER_HOST", "DAGSTER_HOME", "DAGSTER_POSTGRES_URL", "USERS_TEXT", "TOKENS_TEXT"}


def read(file: Path) -> dict[str, Any]:
    """Return the content of a YAML file."""
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content


def containers() -> dict[str, dict[str, Any]]:
    """Return the container of each task definition of the template, by its name."""
    resources = cfn_yaml.load(str(TEMPLATE))["Resources"].values()
    found = [each["Properties"]["ContainerDefinitions"][0] for each in resources if "TaskDefinition" in each["Type"]]
    return {str(each["Name"]): each for each in found}


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of a container. Those of secrets have no value."""
    secrets = {str(each["Name"]): None for each in container["Secrets"]}
    return secrets | {str(each["Name"]): each["Value"] for each in container["Environment"]}


def environment_of(value: object) -> set[str]:
    """Return the names of the variables that a configuration refers to."""
    if isinstance(value, list):
        return set().union(*map(environment_of, value))
    if not isinstance(value, dict):
        return set()
    if set(value) == {"env"}:
        return {str(value["env"])}
    return set().union(*map(environment_of, value.values()))


@pytest.mark.parametrize("file", [ECS, KUBERNETES], ids=["ecs", "kubernetes"])
def test_an_instance_differs_only_in_its_launcher_its_stores_and_its_limits(file: Path) -> None:
    ours, theirs = read(PROJECT_ROOT / "dagster.yaml"), read(file)

    assert {name: value for name, value in theirs.items() if name not in CHANGED} == {
        name: value for name, value in ours.items() if name not in CHANGED
    }
    assert theirs["run_monitoring"] == {
        **ours["run_monitoring"],
        "start_timeout_seconds": 1800,
        "max_resume_run_attempts": 0,
    }


def test_the_longest_start_is_the_same_for_dagster_and_the_platform() -> None:
    timeout = read(ECS)["run_monitoring"]["start_timeout_seconds"]

    for name, container in containers().items():
        assert variables(container)["RUN_START_TIMEOUT_SECONDS"] == str(timeout), name
    settings = read(PROJECT_ROOT / "deploy/kubernetes/settings.yaml")["data"]
    assert settings["RUN_START_TIMEOUT_SECONDS"] == str(read(KUBERNETES)["run_monitoring"]["start_timeout_seconds"])
    assert timeout > GIVE_UP_SECONDS


@pytest.mark.parametrize("name", ["code", "daemon", "webserver"])
def test_each_process_of_dagster_has_the_variables_of_its_configuration(name: str) -> None:
    needed = environment_of(read(ECS)) | environment_of(read(PROJECT_ROOT / "deploy/ecs/workspace.yaml"))

    assert needed <= set(variables(containers()[name]))


def test_a_run_has_the_variables_of_its_stores_and_none_of_the_launcher() -> None:
    instance = read(ECS)
    of_run = set(variables(containers()["run"]))

    assert environment_of([instance["storage"], instance["compute_logs"]]) <= of_run
    assert not environment_of(instance["run_launcher"]) & of_run


def test_every_variable_of_a_task_is_a_setting_or_read_by_dagster() -> None:
    known = {each.variable for each in descriptions()} | OF_OTHERS

    for container in containers().values():
        names = {name for name in variables(container) if not name.startswith(("ECS_", "COMPUTE_LOGS_"))}
        assert names <= known | {"DATABASE_OWNER_URL"}


def test_only_the_preparation_gets_the_owners_login() -> None:
    assert {name for name, each in containers().items() if "DATABASE_OWNER_URL" in variables(each)} == {"prepare"}


def test_the_dashboard_has_a_token_for_the_api_which_requires_one() -> None:
    assert "API_TOKENS" in variables(containers()["api"])
    assert "DASHBOARD_API_TOKEN" in variables(containers()["dashboard"])


def test_the_template_can_be_deployed_without_a_bucket() -> None:
    assert TEMPLATE.stat().st_size <= LARGEST_TEMPLATE
