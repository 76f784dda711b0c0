"""A stalled stream reaches the operators' webhook within a minute, also if Dagster's daemon is dead and stays dead."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_platform.local.supervision import is_supervisor, left_over
from churn_platform_tests.alerts.receivers import HttpReceiver
from churn_platform_tests.faults.conftest import LOAD
from churn_platform_tests.faults.platform import TIMEOUT, FaultyPlatform, ended, faulty_platform, kill
from churn_platform_tests.waiting import wait_until

EVENTS = 10
WITHIN_SECONDS = 60.0  # of which STREAM_STALLED_SECONDS are 30
STALLED = "stream-stalled"

pytestmark = pytest.mark.timeout(900)  # long, because the machine may be busy with something else


@pytest.fixture
def pager() -> Iterator[HttpReceiver]:
    """The operators' webhook."""
    with HttpReceiver() as receiver:
        yield receiver


@pytest.fixture
def doomed(embedded_only: dict[str, str], pager: HttpReceiver) -> Iterator[FaultyPlatform]:
    """A platform of its own that tells the operators, because nothing starts again what is killed here."""
    folder = Path(tempfile.mkdtemp(prefix="churn-doomed-"))
    folder.chmod(0o711)
    with faulty_platform(folder, embedded_only | {"OPERATOR_TARGETS": f"pager={pager.url}"}, LOAD) as platform:
        yield platform
    shutil.rmtree(folder)


@pytest.mark.slow
def test_without_the_daemon_a_stalled_stream_reaches_the_operators_webhook(
    doomed: FaultyPlatform, pager: HttpReceiver
) -> None:
    doomed.traffic.send(EVENTS)
    doomed.standby()
    wait_until(lambda: doomed.lag() == 0, TIMEOUT, "the first events to be read")
    daemon = doomed.stack.pid("daemon")
    (supervisor,) = filter(is_supervisor, left_over(doomed.stack.local))
    sessions = doomed.sessions()
    assert {session.live for session in sessions} == {True, False}

    for pid in (supervisor.pid, daemon, *(session.pid for session in sessions)):
        kill(pid)
    wait_until(lambda: not doomed.sessions(), TIMEOUT, "the streaming runs to be dead")
    doomed.traffic.send(EVENTS)
    wait_until(lambda: states_of(pager, STALLED), WITHIN_SECONDS, "a message about the stalled stream")

    assert ended(daemon)
    assert doomed.lag() == EVENTS
    assert states_of(pager, STALLED) == ["began"]
    assert doomed.value("select count(*) from operator_conditions where name = %s and ended is null", STALLED) == 1


def states_of(pager: HttpReceiver, condition: str) -> list[str]:
    """Return the states of a condition that operators were told of, in order."""
    bodies = [body["condition"] for _, _, body in pager.requests]
    return [str(each["state"]) for each in bodies if each["name"] == condition]
