"""The prediction API as a part of the stack."""

import sys
from urllib.parse import urlsplit

from churn_platform.deployment.health import http_server_answers
from churn_platform.local.part import Part
from churn_platform.settings import PROJECT_ROOT

NAME = "api"


def part(*, url: str) -> Part:
    """Return the prediction API.

    Args:
        url: where it listens.
    """
    place = urlsplit(url)
    return Part(
        name=NAME,
        title="Prediction API",
        command=(sys.executable, "-m", "churn_platform.api", str(place.hostname), str(place.port)),
        address=url,
        folder=PROJECT_ROOT,
        ready=lambda _: http_server_answers(f"{url}/healthz"),
        listens_at=(place.port,) if place.port is not None else (),
        needs=("postgres",),
        stop_seconds=15,
    )
