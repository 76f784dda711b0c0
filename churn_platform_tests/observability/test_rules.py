"""The rules of Prometheus and the configurations beside them: promtool accepts them, each alert fires and resolves."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from churn_platform.alerts.conditions import CONDITIONS
from churn_platform.observability.metrics import (
    API_METRICS,
    API_MODEL_VERSION,
    API_REQUESTS,
    CONDITIONS_EVALUATED,
    DUTY_UP,
    METRICS,
    UP,
)
from churn_platform.observability.rules import ALERTS, RECORDINGS, Alert, alert_of, rules_file
from churn_platform.settings import PROJECT_ROOT

DEPLOY = PROJECT_ROOT / "deploy" / "prometheus"

# Two workers report the same, and two processes of the API share the requests.
INSTANCES = ("one:9464", "two:9464")


def run(*command: str | Path) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def series(name: str, values: str) -> list[dict[str, str]]:
    """Return a series of each worker: a name with its labels, without the closing brace."""
    return [{"series": f'{name}instance="{instance}"}}', "values": values} for instance in INSTANCES]


def phases(well: str, ill: str) -> str:
    """Return values that are well for two minutes, then not for five, and then well again."""
    return f"{well}x8 {ill}x19 {well}x20"


def case_of(alert: Alert) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Return the series of which an alert is about, and the labels that it has."""
    match alert.name:
        case "ChurnApiErrors":
            # a seventh of the requests fails for five minutes; all the time a health check does, which does not count
            route = 'method="POST",route="/v1/predictions",'
            return [
                *series(f'{API_REQUESTS.name}{{{route}status="200",', "0+60x50"),
                *series(f'{API_REQUESTS.name}{{{route}status="503",', "0x8 10+10x19 200x20"),
                *series(f'{API_REQUESTS.name}{{method="GET",route="/readyz",status="503",', "0+60x50"),
            ], {}
        case "ChurnApiWithoutModel":
            # one of two processes has none
            return [
                {"series": f'{API_MODEL_VERSION.name}{{instance="one:8080"}}', "values": "3x50"},
                {"series": f'{API_MODEL_VERSION.name}{{instance="two:8080"}}', "values": phases("3", "0")},
            ], {}
        case "ChurnWorkerAbsent":
            return series(f"{UP.name}{{", "1x8 stale _x18 1x20"), {}
        case "ChurnDatabaseUnreadable":
            return series(f"{UP.name}{{", phases("1", "0")), {}
        case "ChurnDutyFailing":
            return series(f'{DUTY_UP.name}{{duty="cases", ', phases("1", "0")), {"duty": "cases"}
        case "ChurnConditionsStale":
            # the time of the evaluation follows the clock, stands still for five minutes, and follows again
            return series(f"{CONDITIONS_EVALUATED.name}{{", "0+15x8 120x19 420+15x20"), {}
    (condition,) = (each.name for each in CONDITIONS if alert_of(each) == alert)
    name = f'churn_operator_condition{{condition="{condition}", '
    return series(name, phases("0", "1")), {"condition": condition}


def test_promtool_accepts_the_rules_and_the_configurations(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "check", "rules", DEPLOY / "rules.yml")
    assert "SUCCESS" in run(promtool, "check", "config", DEPLOY / "prometheus.yml")


def test_amtool_accepts_the_configuration_of_alertmanager(amtool: str) -> None:
    assert "SUCCESS" in run(amtool, "check-config", DEPLOY / "alertmanager.yml")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_fires_once_however_many_workers_there_are_and_resolves(
    alert: Alert, promtool: str, tmp_path: Path
) -> None:
    input_series, labels = case_of(alert)
    firing = {
        "exp_labels": {"severity": alert.severity, **labels},
        "exp_annotations": {
            "summary": alert.summary.replace("{{ $labels.duty }}", "cases"),
            "description": alert.description,
        },
    }
    check(promtool, tmp_path, alert, input_series, [("1m", []), ("6m30s", [firing]), ("11m", [])])


def test_a_few_failed_requests_to_the_api_wake_nobody(promtool: str, tmp_path: Path) -> None:
    (alert,) = (each for each in ALERTS if each.name == "ChurnApiErrors")
    route = 'method="POST",route="/v1/predictions",'
    # three of the four requests in a quarter of an hour fail
    input_series = [
        *series(f'{API_REQUESTS.name}{{{route}status="200",', "0x8 1x51"),
        *series(f'{API_REQUESTS.name}{{{route}status="503",', "0x12 1x4 2x4 3x39"),
    ]

    check(promtool, tmp_path, alert, input_series, [(f"{minute}m", []) for minute in range(15)])


def check(
    promtool: str,
    folder: Path,
    alert: Alert,
    input_series: list[dict[str, str]],
    expected: list[tuple[str, list[dict[str, Any]]]],
) -> None:
    """Let promtool check which alerts fire, by time since the series began."""
    (folder / "rules.yml").write_text(yaml.safe_dump(rules_file()))
    (folder / "tests.yml").write_text(
        yaml.safe_dump(
            {
                "rule_files": ["rules.yml"],
                "evaluation_interval": "15s",
                "tests": [
                    {
                        "interval": "15s",
                        "input_series": input_series,
                        "alert_rule_test": [
                            {"eval_time": at, "alertname": alert.name, "exp_alerts": alerts} for at, alerts in expected
                        ],
                    }
                ],
            }
        )
    )
    assert "SUCCESS" in run(promtool, "test", "rules", folder / "tests.yml")


def test_every_condition_has_an_alert_and_names_differ() -> None:
    assert {alert_of(each).name for each in CONDITIONS} <= {each.name for each in ALERTS}
    assert len({each.name for each in ALERTS}) == len(ALERTS)
    assert len({each.name for each in RECORDINGS}) == len(RECORDINGS)


def test_rules_use_metrics_that_exist() -> None:
    names = {each.name for each in (*METRICS, *API_METRICS)}
    expressions = [each.expression for each in ALERTS] + [each.expression for each in RECORDINGS]
    assert [each for each in expressions if not any(name in each for name in names)] == []
