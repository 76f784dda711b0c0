"""The description of the API: its own examples work, and whatever it allows is answered as it says."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from churn_platform.api import openapi
from churn_platform.api.config import ApiConfig
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.api.running import Api
from churn_platform_tests.api.test_predictions import decoded
from churn_platform_tests.decoding.schemas import schemas
from churn_platform_tests.examples import examples
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS

CHECKS = [
    schemathesis.checks.not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
OPERATIONS = [
    ("POST", "/v1/predictions"),
    ("POST", "/v1/what-if"),
    ("GET", "/v1/model"),
    ("GET", "/v1/customers/{customer_id}"),
    ("GET", "/readyz"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
]


def test_every_operation_is_described(api: Api) -> None:
    paths = api.get("/openapi.json")["paths"]

    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_whatever_the_description_allows_is_answered_as_it_says(api: Api, method: str, path: str) -> None:
    description = schemathesis.openapi.from_dict(api.get("/openapi.json"))
    operation = description[path][method]

    @given(case=operation.as_strategy())
    @settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
    def answer(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(base_url=api.url, checks=CHECKS)

    answer()


def test_the_examples_work(api: Api) -> None:
    for path, methods in api.get("/openapi.json")["paths"].items():
        for operation in methods.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in body.get("examples", {}).values():
                answer = api.post(path, example["value"])
                assert answer.status_code == 200, answer.text


def test_customers_are_described_by_the_schema(api: Api) -> None:
    customer = api.get("/openapi.json")["components"]["schemas"]["CustomerEvent"]

    assert set(customer["required"]) == {"CustomerId", *BANK.inputs}
    assert customer["properties"]["Geography"]["enum"] == ["France", "Germany", "Spain"]
    assert "Expected: a number from 18 to 120 or null." in customer["properties"]["Age"]["description"]


def config_of(schema: CustomerSchema) -> ApiConfig:
    """Return the configuration of an API for these customers, without a database."""
    return ApiConfig(
        dsn="",
        schema=schema,
        high_risk_threshold=0.5,
        accepts_from=datetime(2026, 1, 1, tzinfo=UTC),
        accepts_ahead=timedelta(hours=1),
    )


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS], ids=lambda schema: schema.name)
def test_the_example_of_a_change_changes_a_feature(schema: CustomerSchema) -> None:
    customer, change = openapi.example_customer(schema), openapi.example_change(schema)
    events, dead = decoded([json.dumps({**customer, **change}).encode()], config_of(schema))

    assert not dead
    assert len(events) == 1
    assert change.keys() <= set(schema.feature_columns)
    assert {**customer, **change} != customer


@given(schema=schemas())
@settings(max_examples=examples(100), deadline=None)
def test_the_example_of_any_schema_is_a_valid_customer(schema: CustomerSchema) -> None:
    body = json.dumps(openapi.example_customer(schema)).encode()

    _, dead = decoded([body], config_of(schema))

    assert not dead
    assert json.dumps(openapi.components(schema, needs_token=True))
