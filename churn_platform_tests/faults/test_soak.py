"""The soak test without faults, in short: `make soak ARGS="--no-faults"` takes ten minutes."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from churn_platform_tests.faults.audit import violations
from churn_platform_tests.faults.platform import Load
from churn_platform_tests.faults.without_faults import WatchedPlatform, watched_platform
from churn_platform_tests.observability.servers import binary

LOAD: Final = Load(rate=500, seed=17)
SECONDS: Final = 30.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # long, because the machine may be busy with something else


@pytest.fixture
def watched(request: pytest.FixtureRequest, embedded_only: dict[str, str]) -> Iterator[WatchedPlatform]:
    """A platform of its own that Prometheus watches."""
    program = binary("prometheus", required=bool(request.config.getoption("--require-prometheus")))
    folder = Path(tempfile.mkdtemp(prefix="churn-watched-"))
    folder.chmod(0o711)
    with watched_platform(program, folder, embedded_only, LOAD) as watched:
        yield watched
    shutil.rmtree(folder)


def test_without_faults_nothing_alerts_an_operator(watched: WatchedPlatform) -> None:
    assert violations(watched.soak(seconds=SECONDS)) == ""
