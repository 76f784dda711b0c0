"""An API that answers on localhost, and requests to it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from churn_platform.api.app import create_app
from churn_platform.api.config import ApiConfig
from churn_platform.api.server import server_of
from churn_platform.local.ports import HOST
from churn_platform_tests.waiting import wait_until


@dataclass(frozen=True)
class Api:
    """A running API.

    Attributes:
        url: its address.
        client: sends requests to it.
    """

    url: str
    client: httpx.Client

    def post(self, path: str, content: object, **options: Any) -> httpx.Response:
        """Send bytes as they are, and anything else as JSON."""
        if isinstance(content, bytes):
            return self.client.post(path, content=content, **options)
        return self.client.post(path, json=content, **options)

    def predict(self, content: object, *, reasons: bool = False) -> Any:
        """Return the answer to a request for predictions, which has to succeed."""
        answer = self.post("/v1/predictions", content, params={"reasons": "true"} if reasons else {})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str, *, status: int = 200) -> Any:
        """Return what is answered at a path, with this status."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    def metric(self, name: str) -> float:
        """Return a figure of /metrics, by its name with its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


@contextmanager
def serving(config: ApiConfig, *, token: str = "") -> Iterator[Api]:
    """Serve an API on a free port.

    Args:
        config: of the API.
        token: that its requests have.
    """
    server = server_of(create_app(config), host=HOST, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 30, "the API listens")
    url = f"http://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}"
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=30, headers=headers) as client:
            yield Api(url, client)
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
