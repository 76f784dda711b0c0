"""What-if: the scores of a customer with changed values are those of the customer who has these values."""

import json
from typing import Any

import pytest

from churn_platform.api.config import MOST_ALTERNATIVES
from churn_platform_tests.api.running import Api
from churn_platform_tests.stream.streams import event


def asked(api: Api, customer: object, changes: object) -> Any:
    """Return the answer to a what-if request, which has to succeed."""
    answer = api.post("/v1/what-if", {"customer": customer, "changes": changes})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_one_alternative(api: Api) -> None:
    customer = event(1)
    changed = api.predict({**customer, "Age": 70, "Balance": 0}, reasons=True)

    found = asked(api, customer, {"Age": 70, "Balance": 0})

    (alternative,) = found["alternatives"]
    base = api.predict(customer, reasons=True)
    assert found["base"] == {name: base[name] for name in found["base"]}
    assert alternative["changes"] == {"Age": 70, "Balance": 0}
    for name in ("risk_score", "prediction", "high_risk", "reasons"):
        assert alternative[name] == changed[name]
    assert alternative["difference"] == changed["risk_score"] - base["risk_score"]


def test_several_alternatives_of_which_some_are_refused(api: Api) -> None:
    found = asked(api, event(1), [{"Age": 30}, {"Age": 5}, {"Geography": "Italy"}, {}])

    assert [each["index"] for each in found["alternatives"]] == [0, 3]
    assert found["alternatives"][1]["difference"] == 0
    assert [each["index"] for each in found["refusals"]] == [1, 2]
    assert found["refusals"][0]["reason"] == "Age: expected a number from 18 to 120 or null, got 5."


def test_a_customer_in_an_envelope_is_changed_inside(api: Api) -> None:
    wrapped = {"timestamp": None, "data": event(1)}

    found = asked(api, wrapped, {"Age": 70})

    assert found["alternatives"] == asked(api, event(1), {"Age": 70})["alternatives"]


def test_numbers_are_kept_as_they_were_sent(api: Api) -> None:
    customer = json.dumps(event(2**61)).encode()
    body = b'{"customer": ' + customer + b', "changes": {"Balance": 1.2E+3}}'

    answer = api.post("/v1/what-if", body).json()

    assert answer["base"]["customer_id"] == 15_600_000 + 2**61
    assert b'"changes":{"Balance":1.2E+3}' in api.post("/v1/what-if", body).content


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"no json", 422, 'Send {"customer"'),
        (b'{"customer": {}}', 422, "changes"),
        (b'{"customer": {}, "changes": 17}', 422, "Found instead"),
        (b'{"customer": {}, "changes": []}', 422, "changes is empty"),
        (b'{"customer": {}, "changes": {"age": 30}}', 422, "changes[0] names 'age', which a customer does not have"),
        (b'{"customer": {}, "changes": {"CustomerId": 30}}', 422, "Choose among"),
        (b'{"customer": {}, "changes": {"Age": 30}}', 422, "CustomerId is missing"),
        (b'{"customer": 17, "changes": {"Age": 30}}', 422, "The value is a number. An event is a JSON object."),
        (b'{"customer": {}, "changes": [' + b"{}," * MOST_ALTERNATIVES + b"{}]}", 413, "at most 100"),
        (json.dumps({"customer": event(1), "changes": {"Age": 5}}).encode(), 422, "Age: expected a number from 18"),
        (b"[" * 100_000, 422, "Found instead"),
    ],
)
def test_other_requests_are_refused_with_the_reason(api: Api, body: bytes, status: int, detail: str) -> None:
    answer = api.post("/v1/what-if", body)

    assert answer.status_code == status
    assert detail in answer.json()["detail"]
