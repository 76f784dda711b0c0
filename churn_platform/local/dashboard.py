"""The dashboard as a part of the stack."""

import sys
from urllib.parse import urlsplit

from churn_platform.deployment.health import http_server_answers
from churn_platform.local.part import Part
from churn_platform.settings import PROJECT_ROOT

NAME = "dashboard"


def part(*, url: str, dagster_url: str, api_url: str) -> Part:
    """Return the dashboard.

    Args:
        url: where it listens.
        dagster_url: the Dagster UI that its pages link to.
        api_url: the prediction API that it asks.
    """
    place = urlsplit(url)
    return Part(
        name=NAME,
        title="Dashboard",
        command=(sys.executable, "-m", "churn_platform.dashboard", str(place.hostname), str(place.port)),
        address=url,
        folder=PROJECT_ROOT,
        ready=lambda _: http_server_answers(f"{url}/healthz"),
        listens_at=(place.port,) if place.port is not None else (),
        needs=("postgres",),
        environment={"DASHBOARD_DAGSTER_URL": dagster_url, "DASHBOARD_API_URL": api_url},
        stop_seconds=10,
    )
