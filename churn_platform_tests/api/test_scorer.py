"""Scoring with and without the thread: the same scores, and an error fails only the requests that it concerns."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest

from churn_platform.api.answers import IndexedPrediction
from churn_platform.api.models import ServedModel
from churn_platform.api.scorer import MOST_IN_THE_LOOP, Result, Scorer
from churn_platform.database.model_versions import ModelVersion
from churn_platform.features.cleaning import clean
from churn_platform.features.exceptions import MissingColumnError
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.contributions import Explainer
from churn_platform.stream.scoring import Champion
from churn_platform_tests.api.test_openapi import config_of
from churn_platform_tests.api.test_predictions import decoded
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers
from churn_platform_tests.scoring.bundles import bundle_of, small_bundle
from churn_platform_tests.stream.streams import event

VALUES = [json.dumps(event(number)).encode() for number in range(2 * MOST_IN_THE_LOOP)]
SIZES = [1, MOST_IN_THE_LOOP, MOST_IN_THE_LOOP + 1, 2 * MOST_IN_THE_LOOP]


def served(bundle: ModelBundle, version: int) -> ServedModel:
    """Return a bundle as the API serves it."""
    now = datetime.now(UTC)
    row = ModelVersion(version, uri="", run_id="", metrics={}, registered_at=now, promoted_at=now, retired_at=None)
    return ServedModel(Champion(version, bundle), row, Explainer(bundle))


@pytest.fixture
def scorer() -> Iterator[Scorer]:
    """A scorer of the bank's customers."""
    scorer = Scorer(config_of(BANK))
    yield scorer
    scorer.close()


@pytest.mark.parametrize("size", SIZES)
def test_any_number_of_customers_has_the_scores_of_the_bundle(scorer: Scorer, size: int) -> None:
    bundle = small_bundle()
    events, _ = decoded(VALUES[:size], config_of(BANK))

    found = asyncio.run(scorer.score(VALUES[:size], served(bundle, 1), explained=False, client="crm"))

    scores = [each.risk_score for each in found if isinstance(each, IndexedPrediction)]
    assert np.array(scores, np.float32).tobytes() == bundle.score(events.customers).tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_a_model_that_cannot_score_fails_its_own_requests_only(scorer: Scorer, size: int) -> None:
    bank = served(small_bundle(), 1)
    foreign = served(bundle_of(clean(any_customers(SUBSCRIBERS, 400, seed=7), SUBSCRIBERS), SUBSCRIBERS), 2)

    async def ask() -> list[Result]:
        with pytest.raises(MissingColumnError):
            await scorer.score(VALUES[:size], foreign, explained=False, client="crm")
        return await scorer.score(VALUES[:size], bank, explained=False, client="crm")

    assert len(asyncio.run(ask())) == size


def test_every_request_of_many_clients_gets_its_own_customers(scorer: Scorer) -> None:
    model = served(small_bundle(), 1)

    async def ask(client: int) -> list[object]:
        ids: list[object] = []
        for number in range(client, len(VALUES), 10):
            size = 1 + number * client % 130
            found = await scorer.score(VALUES[:size], model, explained=False, client=client)
            (last,) = await scorer.score(VALUES[number : number + 1], model, explained=False, client=client)
            assert len(found) == size
            ids.append(last.customer_id if isinstance(last, IndexedPrediction) else last)
        return ids

    async def ask_all() -> list[list[object]]:
        return await asyncio.gather(*(ask(client) for client in range(10)))

    expected = [[event(number)["CustomerId"] for number in range(client, len(VALUES), 10)] for client in range(10)]
    assert asyncio.run(ask_all()) == expected
