"""The model that scores: promotions under load, a champion that does not fit, and a database that is away."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg
import pytest

from churn_platform.api.config import ApiConfig
from churn_platform.database import model_versions
from churn_platform.features.cleaning import clean
from churn_platform.local.stack import Stack
from churn_platform.model_store import save_bundle
from churn_platform.modeling.training import Hyperparameters
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.api.running import Api, serving
from churn_platform_tests.features.customers import SUBSCRIBERS, any_customers
from churn_platform_tests.outages import away
from churn_platform_tests.scoring.bundles import bundle_of, small_bundle
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until

OTHER_TREES = Hyperparameters(trees=30, learning_rate=0.3)
CLIENTS = 4


def promote(connection: psycopg.Connection, version: int, folder: Path) -> None:
    """Make a version champion, which has its bundle in this folder."""
    model_versions.register(connection, version=version, uri=str(folder), run_id=f"run {version}", metrics={"auc": 0.8})
    model_versions.promote(connection, version)


def version_of(api: Api) -> object:
    """Return the version of the model that scores."""
    return api.predict(event(1))["model_version"]


@contextmanager
def load(api: Api) -> Iterator[Counter[tuple[int, int, float]]]:
    """Send requests of several clients all the time, and count the answers: status, model version and score."""
    answers: Counter[tuple[int, int, float]] = Counter()
    stopping = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=api.url, trust_env=False, timeout=30) as client:
            while not stopping.is_set():
                answer = client.post("/v1/predictions", json={"customers": [event(1)] * 20})
                if answer.status_code != 200:
                    answers[answer.status_code, 0, 0.0] += 1
                    continue
                found = answer.json()
                for each in found["predictions"]:
                    answers[200, found["model_version"], each["risk_score"]] += 1

    threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def test_promotions_under_load_fail_no_request(api: Api, connection: psycopg.Connection, tmp_path: Path) -> None:
    other = small_bundle(OTHER_TREES)
    save_bundle(other, str(tmp_path))

    with load(api) as answers:
        wait_until(lambda: sum(answers.values()) > 100, 30, "requests are answered")
        promote(connection, 2, tmp_path)
        wait_until(lambda: version_of(api) == 2, 30, "the new champion scores")
        model_versions.promote(connection, 1)
        wait_until(lambda: version_of(api) == 1, 30, "the old champion scores again")

    assert {status for status, _, _ in answers} == {200}
    scores = {version: {score for _, each, score in answers if each == version} for version in (1, 2)}
    assert all(len(each) == 1 for each in scores.values()), "a request has one model, and each its own scores"
    assert scores[1] != scores[2]


def test_a_champion_that_does_not_fit_leaves_the_old_one(
    api: Api, connection: psycopg.Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "churn.api")
    foreign = bundle_of(clean(any_customers(SUBSCRIBERS, 400, seed=7), SUBSCRIBERS), SUBSCRIBERS)
    save_bundle(foreign, str(tmp_path / "foreign"))
    save_bundle(small_bundle(OTHER_TREES), str(tmp_path / "fitting"))

    promote(connection, 2, tmp_path / "foreign")
    wait_until(lambda: "Champion version 2 cannot be used" in caplog.text, 30, "the champion is refused")
    assert version_of(api) == 1
    promote(connection, 3, tmp_path / "missing")
    wait_until(lambda: "Champion version 3 cannot be used" in caplog.text, 30, "the champion is refused")
    assert version_of(api) == 1
    promote(connection, 4, tmp_path / "fitting")
    wait_until(lambda: version_of(api) == 4, 30, "the next champion scores")


def test_without_a_champion_the_api_waits_for_one(
    config: ApiConfig, connection: psycopg.Connection, bundle_uri: str
) -> None:
    with serving(config) as api:
        assert api.get("/readyz", status=503) == {"ready": False, "model_version": None, "database": True}
        refused = api.post("/v1/predictions", event(1))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert api.get("/v1/model", status=503)["title"] == "No model"

        promote(connection, 1, Path(bundle_uri))

        wait_until(lambda: api.client.get("/readyz").status_code == 200, 30, "the champion is loaded")
        assert version_of(api) == 1


def test_scores_go_on_while_the_database_is_away(
    api: Api, stack: Stack, database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    expected = api.predict(event(1))["risk_score"]
    save_bundle(small_bundle(OTHER_TREES), str(tmp_path))
    connection.close()

    with away(stack, database):
        wait_until(lambda: api.client.get("/readyz").status_code == 503, 30, "the outage is seen")
        assert api.get("/readyz", status=503) == {"ready": False, "model_version": 1, "database": False}
        assert api.predict(event(1))["risk_score"] == expected
        assert api.get("/v1/customers/1", status=503)["title"] == "The database does not answer"
        assert api.get("/v1/model")["version"] == 1
        assert api.client.get("/healthz").text == "ok"

    wait_until(lambda: api.client.get("/readyz").status_code == 200, 30, "the database answers again")
    with psycopg.connect(database) as again:
        promote(again, 2, tmp_path)
    wait_until(lambda: version_of(api) == 2, 30, "promotions are seen again")


def test_the_api_starts_without_a_database(config: ApiConfig) -> None:
    nowhere = replace(config, dsn="postgresql://nobody@127.0.0.1:1/nothing")

    with serving(nowhere) as api:
        assert api.get("/readyz", status=503) == {"ready": False, "model_version": None, "database": False}
        assert api.client.get("/healthz").status_code == 200
        assert api.post("/v1/predictions", event(1)).status_code == 503


def test_the_model_is_described(api: Api, bank_schema: CustomerSchema) -> None:
    found = api.get("/v1/model")

    assert found["version"] == 1
    assert found["promoted_at"] >= found["trained_at"]
    assert found["schema"] == {"name": bank_schema.name, "fingerprint": bank_schema.fingerprint}
    assert found["features"] == list(bank_schema.feature_names)
    assert found["threshold"] == small_bundle().threshold
