"""The benchmark of the prediction API, with few requests."""

import pytest
from rich.console import Console

from benchmarks import api


@pytest.mark.slow
def test_every_request_is_answered_and_counted() -> None:
    cases = api.measure(Console(quiet=True), seconds=1, rate=50, with_mlflow=False)

    assert [case.load.failed for case in cases] == [0, 0, 0, 0]
    at_rate, _, many, _ = cases
    assert at_rate.load.requests == 50
    assert many.customers_per_second == many.load.requests * api.IN_ONE_REQUEST / many.load.seconds
    assert all(case.load.p50 <= case.load.p99 <= case.load.worst for case in cases)
    assert all(case.cpu_ms > 0 for case in cases)
    assert not [text for text in api.missed(cases, rate=50) if "failed" in text]
