"""Predictions: the same scores as the stream's to the last bit, the same refusals, and what an answer says."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME
from hypothesis import given, settings
from hypothesis import strategies as st

from churn_platform.api.config import MOST_CUSTOMERS, ApiConfig
from churn_platform.decoding.events import DeadLetter, EventColumns, event_decoder
from churn_platform.features.cleaning import clean
from churn_platform.local.stack import Stack
from churn_platform.model_store import save_bundle
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.contributions import Explainer
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.api.conftest import HIGH_RISK, config_of
from churn_platform_tests.api.running import Api, serving
from churn_platform_tests.conftest import copy_database, new_template
from churn_platform_tests.decoding.schemas import NULL, valid_values, wrong_values
from churn_platform_tests.examples import examples
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers
from churn_platform_tests.scoring.bundles import bundle_of, small_bundle
from churn_platform_tests.stream.messages import bad_values, good_values
from churn_platform_tests.stream.streams import Stream, event, register_champion

MOST_MESSAGE_BYTES = 900_000
VARYING = "the latest that this batch takes"


@dataclass(frozen=True)
class Message:
    """A Kafka message that was read, as far as the decoder looks at it."""

    sent: bytes
    number: int

    def value(self) -> bytes:
        """Return the bytes of the value."""
        return self.sent

    def partition(self) -> int:
        """Return the Kafka partition."""
        return 0

    def offset(self) -> int:
        """Return the offset."""
        return self.number

    def timestamp(self) -> tuple[int, int]:
        """Return the time of a message that was sent now."""
        return TIMESTAMP_CREATE_TIME, int(datetime.now(UTC).timestamp() * 1000)


def decoded(values: list[bytes], config: ApiConfig) -> tuple[EventColumns, list[DeadLetter]]:
    """Return what the stream makes of messages."""
    return event_decoder(config.schema).decode(
        [Message(value, number) for number, value in enumerate(values)],
        topic_id="topic",
        accepts_from=config.accepts_from,
        accepts_until=datetime.now(UTC) + config.accepts_ahead,
    )


@dataclass(frozen=True)
class Served:
    """An API of a data set, its configuration and its model."""

    api: Api
    config: ApiConfig
    bundle: ModelBundle


@pytest.fixture(scope="module", params=[BANK, SUBSCRIBERS], ids=lambda schema: schema.name)
def served(request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An API of one of the data sets of the repository."""
    schema: CustomerSchema = request.param
    bundle = bundle_of(clean(any_customers(schema, 400, seed=7), schema), schema)
    uri = str(tmp_path_factory.mktemp(schema.name))
    save_bundle(bundle, uri)
    template: str = request.getfixturevalue("template_database") if schema == BANK else new_template(stack, schema)
    database = copy_database(stack, template)
    register_champion(database, uri)
    config = config_of(stack, database, schema)
    with serving(config) as api:
        yield Served(api, config, bundle)


def as_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Return an event as JSON has it: without the fields that it lacks."""
    return {
        name: value.isoformat() if isinstance(value, date) else value
        for name, value in fields.items()
        if value is not NULL
    }


def customers_of(schema: CustomerSchema) -> st.SearchStrategy[dict[str, Any]]:
    """Return customers whom the schema allows, with the values at its bounds too."""
    return st.fixed_dictionaries({name: valid_values(schema.by_name[name]) for name in schema.event_fields}).map(
        as_json
    )


@given(data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_scores_are_those_of_the_stream_to_the_last_bit(served: Served, data: st.DataObject) -> None:
    schema = served.config.schema
    customers = data.draw(st.lists(customers_of(schema), min_size=1, max_size=30))
    events, dead = decoded([json.dumps(each).encode() for each in customers], served.config)
    assert not dead
    expected = served.bundle.score(events.customers)

    together = served.api.predict({"customers": customers})["predictions"]
    alone = served.api.predict(customers[0])

    assert [each["risk_score"] for each in together] == expected.tolist()
    assert np.array([each["risk_score"] for each in together], np.float32).tobytes() == expected.tobytes()
    assert [each["prediction"] for each in together] == (expected >= served.bundle.threshold).astype(int).tolist()
    assert [each["high_risk"] for each in together] == [score >= HIGH_RISK for score in expected.tolist()]
    assert [each["customer_id"] for each in together] == events.customer_id.tolist()
    assert alone["risk_score"] == expected.tolist()[0]


@given(data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_refusals_are_those_of_the_stream(served: Served, data: st.DataObject) -> None:
    schema = served.config.schema
    name = data.draw(st.sampled_from(schema.event_fields))
    wrong = {**data.draw(customers_of(schema)), name: data.draw(wrong_values(schema.by_name[name]))}
    right = data.draw(customers_of(schema))
    _, dead = decoded([json.dumps(as_json(wrong)).encode()], served.config)
    (letter,) = dead

    many = served.api.predict({"customers": [right, as_json(wrong), right]})
    alone = served.api.post("/v1/predictions", as_json(wrong))

    assert many["refusals"] == [{"index": 1, "reason": letter.reason}]
    assert [each["index"] for each in many["predictions"]] == [0, 2]
    assert (alone.status_code, alone.json()["detail"]) == (422, letter.reason)
    assert alone.headers["content-type"] == "application/problem+json"


def test_what_the_stream_stores_is_what_the_api_answers(stream: Stream, config: ApiConfig) -> None:
    values = [*good_values().values(), *(json.dumps(event(number)).encode() for number in range(200))]
    values += [value for value, _ in bad_values().values() if value is not None]
    values = [value for value in values if len(value) < MOST_MESSAGE_BYTES]
    stream.send(values, partition=0)
    stream.stream()
    scores: dict[int, float] = dict(
        stream.connection.execute("select kafka_offset, risk_score::double precision from churn_predictions").fetchall()
    )
    reasons: dict[int, str] = dict(
        stream.connection.execute("select kafka_offset, reason from dead_letter_events").fetchall()
    )
    assert len(scores) + len(reasons) == len(values)

    with serving(config) as api:
        for offset, value in enumerate(values):
            answer = api.post("/v1/predictions", value)
            if offset in scores:
                assert answer.json()["risk_score"] == scores[offset], value[:200]
            else:
                assert answer.status_code == 422
                assert _without_time(answer.json()["detail"]) == _without_time(reasons[offset])


def _without_time(reason: str) -> str:
    """Return a reason without the time until which events are accepted, which is another one for each batch."""
    return reason.partition(" is after ")[0] if reason.endswith(VARYING) else reason


@pytest.mark.parametrize("name", good_values())
def test_every_form_of_an_event_is_scored_among_others(api: Api, name: str) -> None:
    body = b'{"customers": [' + json.dumps(event(1)).encode() + b", " + good_values()[name] + b"]}"

    answer = api.predict(body)

    assert [each["index"] for each in answer["predictions"]] == [0, 1]


def test_the_answer_names_the_model_and_its_thresholds(api: Api) -> None:
    origin = {
        "model_version": 1,
        "threshold": small_bundle().threshold,
        "high_risk_threshold": HIGH_RISK,
    }

    one, many = api.predict(event(7)), api.predict({"customers": [event(7)]})

    assert one.keys() == {"customer_id", "risk_score", "prediction", "high_risk", *origin}
    assert {name: one[name] for name in origin} == {name: many[name] for name in origin} == origin
    assert one["customer_id"] == 15_600_007


def test_reasons_are_the_explainers_with_sentences(api: Api, config: ApiConfig) -> None:
    customers = [event(number) for number in range(250)]
    events, _ = decoded([json.dumps(each).encode() for each in customers], config)
    expected = Explainer(small_bundle()).reasons(events.customers)

    many = api.predict({"customers": customers}, reasons=True)["predictions"]
    one = api.predict(customers[3], reasons=True)

    without = [[{n: v for n, v in reason.items() if n != "sentence"} for reason in each["reasons"]] for each in many]
    assert without == expected
    assert one["reasons"] == many[3]["reasons"]
    for reason in one["reasons"]:
        assert reason["sentence"].endswith("raises the risk" if reason["contribution"] > 0 else "lowers the risk")


def test_requests_that_wait_together_get_their_own_answers(api: Api) -> None:
    def ask(number: int) -> bool:
        kind = number % 4
        if kind == 0:
            refused = api.post("/v1/predictions", event(number, Age=number + 1_000))
            return refused.status_code == 422 and f"got {number + 1_000}." in refused.json()["detail"]
        if kind == 1:
            customers = [event(number * 1_000 + each) for each in range(300)]
            ids = [each["customer_id"] for each in api.predict({"customers": customers})["predictions"]]
            return ids == [each["CustomerId"] for each in customers]
        answer = api.predict(event(number), reasons=kind == 2)
        return answer["customer_id"] == 15_600_000 + number and ("reasons" in answer) == (kind == 2)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))


def test_a_request_may_have_no_customer_and_not_too_many(api: Api) -> None:
    assert api.predict({"customers": []})["predictions"] == []

    body = b'{"customers": [' + b",".join([b"{}"] * (MOST_CUSTOMERS + 1)) + b"]}"
    answer = api.post("/v1/predictions", body)

    assert answer.status_code == 413
    assert f"{MOST_CUSTOMERS + 1} customers" in answer.json()["detail"]
    assert len(api.predict(body.replace(b"{},", b"", 1))["refusals"]) == MOST_CUSTOMERS


def test_the_request_of_the_guide_is_answered(api: Api) -> None:
    page = (PROJECT_ROOT / "docs" / "how-to" / "serve-predictions.md").read_text()
    customer = page.partition("```json\n")[2].partition("```")[0]
    (command,) = re.findall(r"^curl --json @customer\.json '.+?(/v1/.+)'$", page, flags=re.MULTILINE)

    answer = api.post(command, customer.encode())

    assert answer.status_code == 200
    for name in answer.json():
        assert f"`{name}`" in page


def test_another_value_of_reasons_is_refused(api: Api) -> None:
    answer = api.post("/v1/predictions", event(1), params={"reasons": "perhaps"})

    assert (answer.status_code, answer.json()["detail"]) == (422, "reasons is 'perhaps': expected true or false.")


def test_figures_count_requests_customers_and_refusals_by_field(api: Api) -> None:
    api.predict({"customers": [event(1), event(2, Age=5), event(3, Geography="Italy"), event(4)]})
    api.post("/v1/predictions", b"no json")
    api.get("/no/such/page", status=404)

    assert api.metric("churn_api_scored_customers_total") == 2
    assert api.metric('churn_api_refused_customers_total{field="Age"}') == 1
    assert api.metric('churn_api_refused_customers_total{field="Geography"}') == 1
    assert api.metric('churn_api_refused_customers_total{field="message"}') == 1
    assert api.metric('churn_api_requests_total{method="POST",route="/v1/predictions",status="200"}') == 1
    assert api.metric('churn_api_requests_total{method="POST",route="/v1/predictions",status="422"}') == 1
    assert api.metric('churn_api_requests_total{method="other",route="other",status="404"}') == 1
    assert api.metric('churn_api_request_seconds_count{route="/v1/predictions"}') == 2
    assert api.metric("churn_api_model_version") == 1
