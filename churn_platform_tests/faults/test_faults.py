"""Whatever fails, nothing is lost and nothing is counted twice."""

from collections.abc import Callable

import pytest

from churn_platform_tests.faults.accounts import audit, broken
from churn_platform_tests.faults.catalogue import CATALOGUE, Fault
from churn_platform_tests.faults.conftest import RECOVERY
from churn_platform_tests.faults.platform import FaultyPlatform
from churn_platform_tests.faults.recovery import strike


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
    record_property(RECOVERY, f"{recovery.outage:10.1f} s  {recovery.first_row:18.2f} s  {recovery.title}")
    faulty.settle()

    assert broken(audit(faulty)) == ""
