"""A canary on real Kafka and PostgreSQL: it scores a fixed share of the customers, and a bad one is rolled back."""

from dataclasses import replace

import pytest

from churn_platform.challengers import trials
from churn_platform.database import challengers, model_versions, retention_keys, stream_pauses
from churn_platform.keyed_shares import is_in_share
from churn_platform.model_store import save_bundle
from churn_platform.retention.arm import CONTROL, arm_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.calibration import Platt
from churn_platform.worker.canary import CanaryBounds, CanaryDuty, psi
from churn_platform_tests.challengers.conftest import CHALLENGER, by_event, start
from churn_platform_tests.challengers.test_shadow import expected_scores
from churn_platform_tests.scoring.bundles import small_bundle
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

BOUNDS = CanaryBounds(max_psi=0.25, max_errors=0.01, least_predictions=100)
VERSIONS = "select customer_id, model_version from churn_predictions order by event_id"


def test_a_canary_scores_its_share_of_the_customers_and_each_row_has_its_version(
    tried: Stream, bank_schema: CustomerSchema, challenger_bundle: ModelBundle
) -> None:
    start(tried, "canary", bank_schema, share=0.3)
    sent = [event(number) for number in range(300)] + [event(number) for number in range(300)]
    tried.send(sent)

    tried.stream()

    key = challengers.ensure_key(tried.connection, "canary")
    in_share = {each for each in range(15_600_000, 15_600_300) if is_in_share(each, key=key, share=0.3)}
    rows = tried.rows(VERSIONS)
    assert len(rows) == 600
    assert {customer for customer, version in rows if version == CHALLENGER} == in_share
    assert {customer for customer, version in rows if version == 1}.isdisjoint(in_share)
    assert 50 < len(in_share) < 130
    stored = by_event(tried, "risk_score")
    expected = {1: expected_scores(small_bundle(), sent), CHALLENGER: expected_scores(challenger_bundle, sent)}
    versions = by_event(tried, "model_version")
    assert all(stored[event_id] == expected[int(version)][event_id] for event_id, version in versions.items())
    published = {str(each["event_id"]): each["model_version"] for each in tried.published()}
    assert published == versions
    assert tried.value("select distinct model_version from stream_batches") == 1, "a batch has the champion's version"


def test_the_threshold_of_the_model_that_scored_decides_the_prediction(
    tried: Stream, bank_schema: CustomerSchema, challenger_bundle: ModelBundle
) -> None:
    start(tried, "canary", bank_schema, share=0.5)
    tried.send([event(number) for number in range(200)])
    tried.stream()

    thresholds = {1: small_bundle().threshold, CHALLENGER: challenger_bundle.threshold}
    for version, risk, prediction in tried.rows("select model_version, risk_score, prediction from churn_predictions"):
        assert prediction == (float(str(risk)) >= thresholds[int(str(version))])


def test_the_share_of_a_canary_is_independent_of_the_control_group(tried: Stream) -> None:
    canary = challengers.ensure_key(tried.connection, "canary")
    control = retention_keys.ensure_key(tried.connection)
    customers = range(20_000)
    of_canary = {each for each in customers if is_in_share(each, key=canary, share=0.1)}
    of_control = {each for each in customers if arm_of(each, key=control, control_share=0.1) == CONTROL}

    assert len(of_canary & of_control) == pytest.approx(200, abs=60)
    assert {each for each in customers if is_in_share(each, key=canary, share=0.05)} < of_canary


@pytest.mark.slow
def test_a_canary_takes_effect_and_ends_within_a_running_batch(tried: Stream, bank_schema: CustomerSchema) -> None:
    key = tried.plan()
    thread = tried.start(key, idle_seconds=20.0)
    try:
        tried.send([event(number) for number in range(50)])
        wait_until(lambda: len(tried.table_ids()) == 50)
        start(tried, "canary", bank_schema, share=0.5)
        tried.send([event(50)])  # the commit from which the run learns of the canary
        wait_until(lambda: any("is a canary for 0.5" in line for line in tried.log))
        tried.send([event(number) for number in range(100)])
        wait_until(lambda: len(tried.table_ids()) == 151)
        trials.stop(tried.connection, "canary", reason="Enough.")
        tried.send([event(50)])
        wait_until(lambda: any("is no canary any more" in line for line in tried.log))
        tried.send([event(number) for number in range(100)])
        wait_until(lambda: len(tried.table_ids()) == 252)
    finally:
        stream_pauses.pause(tried.connection, tried.config.events_topic)
        thread.join()

    of_canary = sum(version == CHALLENGER for version in by_event(tried, "model_version").values())
    assert 25 < of_canary < 75


@pytest.mark.slow
def test_a_run_that_dies_in_a_canary_loses_and_doubles_nothing(tried: Stream, bank_schema: CustomerSchema) -> None:
    start(tried, "canary", bank_schema, share=0.5)
    sent = [event(number) for number in range(100)]
    tried.commit_and_die(tried.plan(), sent[:60])
    tried.send(sent[60:])

    tried.stream()

    assert tried.table_ids() == tried.published_ids() == sorted(str(each["event_id"]) for each in sent)
    versions = by_event(tried, "model_version")
    assert {str(each["event_id"]): each["model_version"] for each in tried.published()} == versions
    assert set(versions.values()) == {1, CHALLENGER}


@pytest.mark.slow
def test_a_replay_scores_the_canarys_customers_with_the_champion(tried: Stream, bank_schema: CustomerSchema) -> None:
    start(tried, "canary", bank_schema, share=0.5)
    tried.send([event(number) for number in range(60)])
    batch = tried.stream()

    tried.materialize(batch.batch)

    assert tried.rows("select distinct model_version from churn_predictions") == [(1,)]


def test_the_scores_of_a_good_canary_keep_it(tried: Stream, bank_schema: CustomerSchema, bundle_uri: str) -> None:
    tried.connection.execute("update model_versions set uri = %s where version = %s", (bundle_uri, CHALLENGER))
    start(tried, "canary", bank_schema, share=0.5)
    tried.send([event(number) for number in range(600)])
    tried.stream()

    CanaryDuty(BOUNDS).run(tried.connection)

    current = challengers.active(tried.connection, "canary")
    assert current is not None
    assert current.events == tried.value("select count(*) from churn_predictions where model_version = 2")
    assert current.followed_at is not None


def test_a_canary_with_other_scores_is_rolled_back_and_the_champion_goes_on(
    tried: Stream, bank_schema: CustomerSchema, challenger_bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("shifted"))
    shifted = replace(challenger_bundle, calibration=Platt(slope=1.0, intercept=3.0))
    save_bundle(shifted, folder)
    tried.connection.execute("update model_versions set uri = %s where version = %s", (folder, CHALLENGER))
    start(tried, "canary", bank_schema, share=0.5)
    tried.send([event(number) for number in range(600)])
    tried.stream()

    CanaryDuty(BOUNDS).run(tried.connection)
    tried.send([event(number) for number in range(60)])
    batch = tried.stream()

    [(ended_by, reason)] = tried.rows("select ended_by, reason from challengers")
    assert ended_by == "rollback"
    assert "CANARY_MAX_PSI is 0.25" in str(reason)
    assert challengers.rolled_back(tried.connection, hours=1) is not None
    assert {
        version
        for (version,) in tried.connection.execute(
            "select model_version from churn_predictions where batch = %s", (batch.batch,)
        )
    } == {1}


def test_a_canary_that_fails_to_score_is_rolled_back_and_no_event_is_lost(
    tried: Stream, bank_schema: CustomerSchema, challenger_bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("failing"))
    save_bundle(replace(challenger_bundle, calibration=Platt(slope=float("nan"), intercept=0.0)), folder)
    tried.connection.execute("update model_versions set uri = %s where version = %s", (folder, CHALLENGER))
    start(tried, "canary", bank_schema, share=0.5)
    tried.send([event(number) for number in range(400)])
    batch = tried.stream()

    CanaryDuty(BOUNDS).run(tried.connection)

    assert (batch.predictions, batch.dead_letters) == (400, 0)
    assert tried.rows("select distinct model_version from churn_predictions") == [(1,)]
    [(ended_by, reason)] = tried.rows("select ended_by, reason from challengers")
    assert ended_by == "rollback"
    assert "It failed to score" in str(reason)


def test_a_canary_whose_bundle_is_missing_ends_and_the_champion_scores(
    tried: Stream, bank_schema: CustomerSchema
) -> None:
    start(tried, "canary", bank_schema, share=0.5)
    tried.connection.execute("update model_versions set uri = '/nowhere' where version = %s", (CHALLENGER,))
    tried.send([event(number) for number in range(30)])

    assert tried.stream().predictions == 30

    assert tried.rows("select ended_by from challengers") == [("failure",)]
    assert tried.rows("select distinct model_version from churn_predictions") == [(1,)]


def test_a_promotion_of_the_canary_ends_it_and_all_customers_get_it(tried: Stream, bank_schema: CustomerSchema) -> None:
    start(tried, "canary", bank_schema, share=0.5)
    model_versions.promote(tried.connection, CHALLENGER)
    tried.send([event(number) for number in range(30)])

    tried.stream()

    assert tried.rows("select distinct model_version from churn_predictions") == [(CHALLENGER,)]


def test_psi_by_bins_is_0_for_equal_counts_and_grows_with_the_difference() -> None:
    champion = [100 - place for place in range(100)]

    assert psi(champion, champion) == pytest.approx(0)
    assert psi([2 * count for count in champion], champion) == pytest.approx(0, abs=1e-4)
    assert psi(champion[::-1], champion) > 0.5
    assert psi([1000, *[0] * 99], [1000, *[0] * 99]) == pytest.approx(0)
