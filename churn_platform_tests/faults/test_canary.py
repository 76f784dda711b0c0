"""Live runs are killed while a canary scores a share of the customers: these customers keep its version."""

import json
from collections.abc import Iterator
from typing import Final

import pytest

from churn_platform.challengers import trials
from churn_platform.database import challengers, model_versions
from churn_platform.kafka import topics
from churn_platform.kafka.reading import read_all
from churn_platform.keyed_shares import is_in_share
from churn_platform_tests.faults.audit import audit, violations
from churn_platform_tests.faults.platform import TIMEOUT, FaultyPlatform, Session, kill
from churn_platform_tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]

VERSION: Final = 3
SHARE: Final = 0.3
# The customers of the rows that a canary could have scored: from its first row on, by Kafka partition.
_ROWS: Final = """
    select p.event_id, p.customer_id, p.model_version
    from churn_predictions p join (
        select kafka_partition, min(kafka_offset) as first from churn_predictions
        where model_version = %s group by kafka_partition
    ) as canary using (kafka_partition)
    where p.kafka_offset >= canary.first
"""


@pytest.fixture
def canary(faulty: FaultyPlatform) -> Iterator[int]:
    """The champion's version. Another one with the same bundle, so with the same scores, is its canary meanwhile."""
    champion = model_versions.champion(faulty.connection)
    assert champion is not None
    model_versions.register(
        faulty.connection, version=VERSION, uri=champion.uri, run_id=f"training {VERSION}", metrics={}
    )
    trials.start(faulty.connection, "canary", model_version=VERSION, share=SHARE, schema=faulty.config.schema)
    yield champion.version
    if challengers.active(faulty.connection, "canary") is not None:
        trials.stop(faulty.connection, "canary", reason="The test is over.")


def canary_rows(faulty: FaultyPlatform, run_id: str) -> bool:
    """Return whether a run has stored rows of the canary."""
    return faulty.holds(
        "select exists (select from churn_predictions join stream_batches using (batch) "
        "where run_id = %s and churn_predictions.model_version = %s)",
        run_id,
        VERSION,
    )


def live_with_canary(faulty: FaultyPlatform, *, other_than: set[str]) -> Session:
    """Wait until another run is live and has stored rows of the canary, and return it."""

    def is_live() -> bool:
        return any(each.live and each.run_id not in other_than for each in faulty.sessions())

    wait_until(is_live, TIMEOUT, "another run to be live")
    live = faulty.live()
    wait_until(lambda: canary_rows(faulty, live.run_id), TIMEOUT, "rows of the canary")
    return live


def test_the_customers_of_a_canary_keep_their_version_when_live_runs_are_killed(
    faulty: FaultyPlatform, canary: int
) -> None:
    predictions = topics.describe(faulty.admin, faulty.config.predictions_topic)
    begin = topics.list_offsets(faulty.admin, predictions, topics.LATEST)
    faulty.traffic.start()
    killed: set[str] = set()
    for _ in range(3):  # with a standby that is warm, or with none that is ready yet
        live = live_with_canary(faulty, other_than=killed)
        kill(live.pid)
        killed.add(live.run_id)
    live_with_canary(faulty, other_than=killed)
    faulty.settle()

    assert challengers.active(faulty.connection, "canary") is not None, "nothing has ended it"
    assert violations(audit(faulty)) == ""
    key = challengers.ensure_key(faulty.connection, "canary")
    rows = {str(event): (customer, version) for event, customer, version in faulty.rows(_ROWS, VERSION)}
    in_share = {customer for customer, _ in rows.values() if is_in_share(customer, key=key, share=SHARE)}
    assert 0 < len(in_share) < len({customer for customer, _ in rows.values()})
    wrong = [
        (event, customer, version)
        for event, (customer, version) in rows.items()
        if version != (VERSION if customer in in_share else canary)
    ]
    assert wrong == []
    published = [json.loads(each.value() or b"") for each in read_all(faulty.config.kafka, predictions.name, begin)]
    assert len({each["event_id"] for each in published}) == len(published)
    different = [
        each for each in published if each["event_id"] in rows and each["model_version"] != rows[each["event_id"]][1]
    ]
    assert different == []
