"""Limits: requests a second of each token, the size of a body, and what may wait."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from churn_platform.api.config import ApiConfig
from churn_platform.api.rate_limit import RateLimit
from churn_platform.api.tokens import read_tokens
from churn_platform_tests.api.running import Api, serving
from churn_platform_tests.api.test_tokens import added
from churn_platform_tests.stream.streams import event

BODY_BYTES = 20_000


class Clock:
    """A clock that stands still until it is moved."""

    seconds = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


@pytest.fixture
def narrow(config: ApiConfig, champion: None) -> Iterator[Api]:
    """An API that takes small bodies only."""
    del champion
    with serving(replace(config, max_body_bytes=BODY_BYTES)) as api:
        yield api


def test_a_bucket_allows_a_second_s_worth_at_once_and_is_refilled() -> None:
    clock = Clock()
    limit = RateLimit(4, monotonic=clock)

    assert [limit.take("crm") for _ in range(5)] == [0, 0, 0, 0, 0.25]
    assert limit.take("web") == 0, "each name has its own"
    clock.seconds = 0.25
    assert [limit.take("crm"), limit.take("crm")] == [0, 0.25]
    clock.seconds = 60
    assert [limit.take("crm") for _ in range(5)] == [0, 0, 0, 0, 0.25]


def test_less_than_one_request_a_second_is_possible() -> None:
    clock = Clock()
    limit = RateLimit(0.1, monotonic=clock)

    assert [limit.take("crm"), limit.take("crm")] == [0, 10]


@pytest.mark.usefixtures("champion")
def test_too_many_requests_of_a_token_are_answered_with_429(config: ApiConfig, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    crm, web = added(file, "crm"), added(file, "web")
    assert list(read_tokens(file)) == ["crm", "web"]

    with serving(replace(config, tokens_file=file, requests_per_second=0.01), token=crm) as api:
        first, second = (api.post("/v1/predictions", event(1)) for _ in range(2))
        other = api.post("/v1/predictions", event(1), headers={"authorization": f"Bearer {web}"})
        assert (first.status_code, second.status_code, other.status_code) == (200, 429, 200)
        assert 99 <= int(second.headers["retry-after"]) <= 101
        assert second.json()["title"] == "Too many requests"
        assert api.client.get("/healthz").status_code == 200, "probes are not limited"


def test_a_large_body_is_refused_before_it_is_read(narrow: Api) -> None:
    largest = event(1, Extra="")
    padding = BODY_BYTES - len(narrow.client.build_request("POST", "/", json=largest).content)
    fits = narrow.post("/v1/predictions", event(1, Extra="x" * padding))
    too_large = narrow.post("/v1/predictions", event(1, Extra="x" * (padding + 1)))

    assert fits.status_code == 200
    assert (too_large.status_code, too_large.json()["detail"]) == (
        413,
        f"The body has more than {BODY_BYTES} bytes (API_MAX_BODY_BYTES).",
    )


def test_a_body_without_a_length_is_counted_as_it_arrives(narrow: Api) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 1_000

    answer = narrow.client.post("/v1/predictions", content=chunks())

    assert answer.status_code == 413
