"""The description of the API (OpenAPI 3.1), whose customers are those of the customer schema. Pure."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final, TypeAlias

import msgspec

from churn_platform.api import answers
from churn_platform.api.config import MOST_ALTERNATIVES, MOST_CUSTOMERS
from churn_platform.api.problems import PROBLEM_TYPE
from churn_platform.decoding.events import event_decoder
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema

Document: TypeAlias = dict[str, Any]

CUSTOMER: Final = "CustomerEvent"
BEARER: Final = "token"
_ANSWERS: Final = (
    answers.SinglePrediction,
    answers.Predictions,
    answers.WhatIf,
    answers.Model,
    answers.Customer,
    answers.Ready,
    answers.Problem,
)
_PROBLEMS: Final[Mapping[int, str]] = {
    401: "The token is missing or not valid.",
    404: "There is no such customer.",
    413: "The body is too large, or has too many customers.",
    421: "No token is needed here, and the request was sent to a name that is not of this machine.",
    422: "The customer was refused, or the request is not valid. `detail` says why.",
    429: "The token has made too many requests. Repeat it after `Retry-After` seconds.",
    503: "No model has been promoted, too many customers wait, or the database does not answer.",
}
_EXAMPLE_DATE: Final = date(2024, 1, 15)
_EXAMPLE_NUMBER: Final = 1000
"""The example of a number that may be much larger is as much above its minimum."""


def components(schema: CustomerSchema, *, needs_token: bool) -> Document:
    """Return the schemas that operations refer to.

    Args:
        schema: of the customers.
        needs_token: whether requests need a token.
    """
    decoder = event_decoder(schema)
    _, found = msgspec.json.schema_components([*_ANSWERS, decoder.message], ref_template="#/components/schemas/{name}")
    event = found.pop(decoder.message.__name__)
    event["title"] = CUSTOMER
    event["description"] = "A customer, as events of the stream have it. Other fields are ignored."
    event["examples"] = [example_customer(schema)]
    for name, allowed in decoder.fields.items():
        column = schema.by_name.get(name)
        meaning = f"{column.description} " if column is not None and column.description else ""
        event["properties"][name]["description"] = f"{meaning}Expected: {allowed}."
    found[CUSTOMER] = event
    schemes = {"securitySchemes": {BEARER: {"type": "http", "scheme": "bearer"}}} if needs_token else {}
    return {"schemas": found, **schemes}


def predictions(schema: CustomerSchema) -> Document:
    """Return the description of POST /v1/predictions."""
    customer, example = _ref(CUSTOMER), example_customer(schema)
    return {
        "parameters": [
            {
                "name": "reasons",
                "in": "query",
                "description": "Whether the answer explains each score.",
                "schema": {"type": "string", "enum": ["true", "false"], "default": "false"},
            }
        ],
        "requestBody": _body(
            {"anyOf": [_many(customer), customer, _envelope(customer)]},
            {"one customer": example, "many customers": {"customers": [example, example]}},
        ),
        "responses": _responses(
            {"anyOf": [_ref("SinglePrediction"), _ref("Predictions")]}, problems=(401, 413, 421, 422, 429, 503)
        ),
    }


def what_if(schema: CustomerSchema) -> Document:
    """Return the description of POST /v1/what-if."""
    changes = {
        "type": "object",
        "properties": {name: {} for name in schema.inputs},
        "additionalProperties": False,
    }
    example = {"customer": example_customer(schema), "changes": example_change(schema)}
    return {
        "requestBody": _body(
            {
                "type": "object",
                "required": ["customer", "changes"],
                "properties": {
                    "customer": {"anyOf": [_ref(CUSTOMER), _envelope(_ref(CUSTOMER))]},
                    "changes": {
                        "anyOf": [
                            changes,
                            {"type": "array", "items": changes, "minItems": 1, "maxItems": MOST_ALTERNATIVES},
                        ]
                    },
                },
            },
            {
                "one alternative": example,
                "several alternatives": {**example, "changes": [example["changes"], example["changes"]]},
            },
        ),
        "responses": _responses(_ref("WhatIf"), problems=(401, 413, 421, 422, 429, 503)),
    }


def model() -> Document:
    """Return the description of GET /v1/model."""
    return {"responses": _responses(_ref("Model"), problems=(401, 421, 429, 503))}


def customer(schema: CustomerSchema) -> Document:
    """Return the description of GET /v1/customers/{customer_id}."""
    example = example_value(schema.id_column)
    parameter = {
        "name": "customer_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "example": str(example),
    }
    return {
        "parameters": [parameter],
        "responses": _responses(_ref("Customer"), problems=(401, 404, 421, 429, 503)),
    }


def ready() -> Document:
    """Return the description of GET /readyz."""
    answer = {"content": {"application/json": {"schema": _ref("Ready")}}}
    return {
        "security": [],
        "responses": {
            "200": {"description": "A model is loaded, and the database answers.", **answer},
            "503": {"description": "One of them is missing.", **answer},
        },
    }


def health() -> Document:
    """Return the description of GET /healthz."""
    return {"security": [], "responses": {"200": _text("The process answers.")}}


def metrics() -> Document:
    """Return the description of GET /metrics."""
    return {
        "responses": {
            "200": _text("The figures, for Prometheus."),
            **_problem_responses((401, 421, 429)),
        }
    }


def example_customer(schema: CustomerSchema) -> Document:
    """Return a customer whom the decoder accepts."""
    return {name: example_value(schema.by_name[name]) for name in schema.event_fields}


def example_change(schema: CustomerSchema) -> Document:
    """Return another value for the first column that becomes a feature."""
    column = schema.by_name[schema.feature_columns[0]]
    first = example_value(column)
    others: list[object] = [each for each in (*column.categories, *_bounds(column)) if each != first]
    return {column.name: (others or [first])[0]}


def example_value(column: Column) -> Any:
    """Return a value of the column that an event may have."""
    low, high = column.minimum, column.maximum
    match column.kind:
        case "flag":
            return 1
        case "date":
            latest = high if isinstance(high, date) else date.max
            earliest = low if isinstance(low, date) else date.min
            return str(max(min(column.since or _EXAMPLE_DATE, latest), earliest))
        case "category":
            return column.categories[0]
        case "text":
            return "C-000001"[-(column.max_length or _EXAMPLE_NUMBER) :]
        case _:
            number = _number_between(low, high)
            return round(number) if column.kind == "whole" else number


def _number_between(low: object, high: object) -> float:
    least = float(low) if isinstance(low, int | float) else None
    most = float(high) if isinstance(high, int | float) else None
    if least is None:
        return min(0.0, most) if most is not None else 0.0
    if most is None:
        return least + _EXAMPLE_NUMBER
    return (
        (least + most) // 2
        if most - least <= _EXAMPLE_NUMBER and most - least > 2
        else min(least + _EXAMPLE_NUMBER, most)
    )


def _bounds(column: Column) -> list[object]:
    """Return the bounds of a column as JSON has them."""
    if column.kind == "flag":
        return [0, 1]
    found = [bound for bound in (column.minimum, column.maximum) if bound is not None]
    if column.kind == "date":
        return [str(bound) for bound in found]
    return [round(bound) if column.kind == "whole" and isinstance(bound, float) else bound for bound in found]


def _many(customer: Document) -> Document:
    return {
        "type": "object",
        "required": ["customers"],
        "properties": {"customers": {"type": "array", "items": customer, "maxItems": MOST_CUSTOMERS}},
    }


def _envelope(customer: Document) -> Document:
    return {
        "type": "object",
        "required": ["timestamp", "data"],
        "properties": {"timestamp": {}, "data": customer},
    }


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _body(schema: Document, examples: Mapping[str, Document]) -> Document:
    named = {name: {"value": value} for name, value in examples.items()}
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": named}}}


def _responses(schema: Document, *, problems: Sequence[int]) -> Document:
    answer = {"description": "The answer.", "content": {"application/json": {"schema": schema}}}
    return {"200": answer, **_problem_responses(problems)}


def _problem_responses(statuses: Sequence[int]) -> Document:
    return {
        str(status): {
            "description": _PROBLEMS[status],
            "content": {PROBLEM_TYPE: {"schema": _ref("Problem")}},
        }
        for status in statuses
    }


def _text(description: str) -> Document:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}
