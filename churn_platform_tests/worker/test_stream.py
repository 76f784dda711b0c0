"""Cases of a real stream: they follow its commits, and survive replays, promotions and restarts."""

from dataclasses import replace

import pytest

from churn_platform.database import model_versions
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.worker.cases import CasesDuty
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.worker.teams import new_config

THRESHOLD = 0.5
CASES = "select case_id, customer_id, status, event_id, risk_score, reasons, list_rank from retention_cases order by 1"


def duty_of(schema: CustomerSchema) -> CasesDuty:
    """A duty as after the start of its process."""
    config = new_config(schema)
    return CasesDuty(replace(config, policy=replace(config.policy, threshold=THRESHOLD)))


@pytest.mark.slow
def test_open_cases_survive_a_replay_a_promotion_and_a_restart(
    stream: Stream, bundle_uri: str, bank_schema: CustomerSchema
) -> None:
    stream.send([event(number) for number in range(60)])
    batch = stream.stream(high_risk_threshold=THRESHOLD)
    duty_of(bank_schema).run(stream.connection)
    before = stream.rows(CASES)
    assert len(before) == stream.value("select count(distinct customer_id) from high_risk_customers")
    assert before
    assert all(reasons for *_, reasons, _ in before)

    model_versions.register(stream.connection, version=2, uri=bundle_uri, run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)
    stream.materialize(batch.batch)
    duty_of(bank_schema).run(stream.connection)

    assert stream.rows(CASES) == before

    stream.send([event(number) for number in range(60)])
    stream.stream(high_risk_threshold=THRESHOLD)
    duty_of(bank_schema).run(stream.connection)

    after = stream.rows(CASES)
    assert [case[:3] for case in after] == [case[:3] for case in before]
    assert {case[3] for case in after}.isdisjoint({case[3] for case in before})
    assert stream.rows("select distinct model_version from retention_cases") == [(2,)]
