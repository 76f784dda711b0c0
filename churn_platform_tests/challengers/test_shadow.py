"""A shadow on real Kafka and PostgreSQL: its scores are those of its model, once for each event of its share."""

import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from churn_platform.challengers import trials
from churn_platform.challengers.exceptions import ShadowProcessError
from churn_platform.challengers.shadow_requests import PROGRAM
from churn_platform.database import challengers, model_versions
from churn_platform.database.challengers import ChallengerError
from churn_platform.keyed_shares import is_in_share
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.worker.shadow import ShadowDuty
from churn_platform_tests.challengers.conftest import CHALLENGER, by_event, follow, start
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until
from churn_platform_tests.worker.processes import worker_process

PAIRS = (
    "select event_id::text, customer_id, risk_score::float8, champion_risk_score::float8, champion_version "
    "from shadow_predictions order by 1"
)


def expected_scores(bundle: ModelBundle, sent: list[dict[str, object]]) -> dict[str, float]:
    """The model's own scores of these events, by event id."""
    columns = {name: np.array([each[name] for each in sent]) for name in bundle.schema.feature_columns}
    return {str(each["event_id"]): score for each, score in zip(sent, bundle.score(columns).tolist(), strict=True)}


def test_a_shadow_scores_each_new_event_as_its_model_does_to_the_last_bit(
    tried: Stream, duty: ShadowDuty, bank_schema: CustomerSchema, challenger_bundle: ModelBundle
) -> None:
    tried.send([event(number) for number in range(20)])
    tried.stream()
    start(tried, "shadow", bank_schema)
    sent = [event(number, Age=None if number % 7 == 0 else 20 + number % 60) for number in range(300)]
    tried.send(sent)
    tried.stream()

    follow(duty, tried)

    found = tried.rows(PAIRS)
    assert {str(event_id): score for event_id, _, score, _, _ in found} == expected_scores(challenger_bundle, sent)
    predictions = by_event(tried, "risk_score")
    assert all(predictions[str(event_id)] == champion for event_id, _, _, champion, _ in found)
    assert {version for *_, version in found} == {1}
    assert tried.value("select events from challengers") == 300


def test_only_customers_of_the_share_are_scored(tried: Stream, duty: ShadowDuty, bank_schema: CustomerSchema) -> None:
    start(tried, "shadow", bank_schema, share=0.3)
    tried.send([event(number) for number in range(400)])
    tried.stream()

    follow(duty, tried)

    key = challengers.ensure_key(tried.connection, "shadow")
    scored = {customer for _, customer, *_ in tried.rows(PAIRS)}
    assert scored == {
        customer for customer in range(15_600_000, 15_600_400) if is_in_share(customer, key=key, share=0.3)
    }
    assert 80 < len(scored) < 160


@pytest.mark.slow
def test_a_process_that_is_killed_loses_and_doubles_nothing(
    tried: Stream, duty: ShadowDuty, bank_schema: CustomerSchema
) -> None:
    start(tried, "shadow", bank_schema)
    tried.send([event(number) for number in range(100)])
    tried.stream()
    follow(duty, tried)
    tried.send([event(number) for number in range(100, 250)])
    tried.stream()
    assert duty.process_id is not None
    os.kill(duty.process_id, signal.SIGKILL)

    with pytest.raises(ShadowProcessError, match="ended with status -9"):
        duty.run(tried.connection)
    follow(duty, tried)

    assert tried.value("select count(*) from shadow_predictions") == 250
    assert tried.value("select events from challengers") == 250


@pytest.mark.slow
def test_a_replay_changes_no_row_of_a_shadow(
    tried: Stream, duty: ShadowDuty, bank_schema: CustomerSchema, bundle_uri: str
) -> None:
    start(tried, "shadow", bank_schema)
    tried.send([event(number) for number in range(60)])
    batch = tried.stream()
    follow(duty, tried)
    before = tried.rows(PAIRS)
    model_versions.register(tried.connection, version=3, uri=bundle_uri, run_id="third", metrics={})
    model_versions.promote(tried.connection, 3)

    tried.materialize(batch.batch)
    follow(duty, tried)

    assert tried.rows(PAIRS) == before
    assert tried.value("select distinct model_version from churn_predictions") == 3


def test_a_shadow_that_is_stopped_scores_nothing_more_and_its_process_ends(
    tried: Stream, duty: ShadowDuty, bank_schema: CustomerSchema
) -> None:
    start(tried, "shadow", bank_schema)
    duty.run(tried.connection)
    assert duty.process_id is not None
    trials.stop(tried.connection, "shadow", reason="Enough.")
    tried.send([event(number) for number in range(30)])
    tried.stream()

    follow(duty, tried)

    assert duty.process_id is None
    assert tried.rows(PAIRS) == []
    assert tried.rows("select ended_by, reason from challengers") == [("hand", "Enough.")]


def test_a_shadow_whose_bundle_is_missing_ends_with_the_reason(
    tried: Stream, duty: ShadowDuty, bank_schema: CustomerSchema
) -> None:
    start(tried, "shadow", bank_schema)
    tried.connection.execute("update model_versions set uri = '/nowhere' where version = %s", (CHALLENGER,))

    follow(duty, tried)

    [(ended_by, reason)] = tried.rows("select ended_by, reason from challengers")
    assert ended_by == "failure"
    assert "/nowhere has no manifest.json" in str(reason)


def test_a_promotion_ends_the_trial_of_the_version(tried: Stream, bank_schema: CustomerSchema) -> None:
    start(tried, "shadow", bank_schema)

    model_versions.promote(tried.connection, CHALLENGER)

    assert challengers.active(tried.connection, "shadow") is None
    assert tried.value("select ended_by from challengers") == "promotion"


def test_only_one_version_is_tried_at_a_time(tried: Stream, bank_schema: CustomerSchema, bundle_uri: str) -> None:
    start(tried, "shadow", bank_schema, share=0.1)
    start(tried, "shadow", bank_schema, share=0.2)
    model_versions.register(tried.connection, version=3, uri=bundle_uri, run_id="third", metrics={})

    with pytest.raises(ChallengerError, match=r"Version 2 is the shadow since .*Version 3 was not started"):
        trials.start(tried.connection, "shadow", model_version=3, share=1.0, schema=bank_schema)
    with pytest.raises(ChallengerError, match="Version 1 is the champion"):
        trials.start(tried.connection, "canary", model_version=1, share=0.1, schema=bank_schema)

    assert tried.rows("select model_version, share, ended_at is null from challengers order by challenger") == [
        (2, 0.1, False),
        (2, 0.2, True),
    ]


@pytest.mark.slow
def test_the_process_that_scores_ends_with_a_worker_that_is_killed_and_another_worker_goes_on(
    tried: Stream, bank_schema: CustomerSchema, tmp_path: Path
) -> None:
    start(tried, "shadow", bank_schema)
    tried.send([event(number) for number in range(100)])
    tried.stream()

    def scored() -> object:
        return tried.value("select count(*) from shadow_predictions")

    with worker_process(tmp_path / "first", DATABASE_URL=tried.config.dsn) as process:
        wait_until(lambda: scored() == 100)
        scoring = [each for each in psutil.Process(process.pid).children() if PROGRAM in each.cmdline()]
        process.kill()
        psutil.wait_procs(scoring, timeout=30)
    assert len(scoring) == 1
    assert not scoring[0].is_running()
    tried.send([event(number) for number in range(100, 200)])
    tried.stream()
    with worker_process(tmp_path / "second", DATABASE_URL=tried.config.dsn):
        wait_until(lambda: scored() == 200)
    assert tried.value("select events from challengers") == 200
