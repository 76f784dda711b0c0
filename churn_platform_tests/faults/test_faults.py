"""After each fault, nothing is lost and nothing is counted twice."""

from collections.abc import Callable
from dataclasses import asdict

import pytest

from churn_platform_tests.faults.audit import audit, violations
from churn_platform_tests.faults.catalogue import CATALOGUE, Fault
from churn_platform_tests.faults.conftest import RECOVERY
from churn_platform_tests.faults.platform import FaultyPlatform
from churn_platform_tests.faults.recovery import inject_and_recover

pytestmark = pytest.mark.timeout(900)  # long, because the machine may be busy with something else


@pytest.mark.slow
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
    recovery = inject_and_recover(faulty, fault)
    record_property(RECOVERY, asdict(recovery))
    faulty.settle()

    assert violations(audit(faulty)) == ""


@pytest.mark.slow
def test_an_idle_platform_has_closed_and_reported_every_batch_and_all_figures_are_right(faulty: FaultyPlatform) -> None:
    faulty.become_idle()

    opened = {batch for (batch,) in faulty.rows("select batch from stream_batches where opened is not null")}
    assert opened <= faulty.materialized_batches()
    assert violations(audit(faulty)) == ""
