"""Whatever fails, nothing is lost and nothing is counted twice."""

from collections.abc import Callable
from dataclasses import asdict

import pytest

from churn_platform_tests.faults.accounts import audit, broken
from churn_platform_tests.faults.catalogue import CATALOGUE, Fault
from churn_platform_tests.faults.conftest import RECOVERY
from churn_platform_tests.faults.platform import FaultyPlatform
from churn_platform_tests.faults.recovery import strike

pytestmark = pytest.mark.timeout(900)  # most of it for a machine that is busy otherwise


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.name, marks=() if fault.quick else pytest.mark.faults)
        for fault in CATALOGUE.values()
    ],
)
def test_nothing_is_lost_or_counted_twice(
    faulty: FaultyPlatform, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    recovery = strike(faulty, fault)
    record_property(RECOVERY, asdict(recovery))
    faulty.settle()

    assert broken(audit(faulty)) == ""


def test_at_rest_every_batch_is_closed_and_shown_and_every_figure_is_right(faulty: FaultyPlatform) -> None:
    faulty.come_to_rest()

    opened = {batch for (batch,) in faulty.rows("select batch from stream_batches where opened is not null")}
    assert opened <= faulty.materialized_batches()
    assert broken(audit(faulty)) == ""
