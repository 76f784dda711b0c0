"""Which customers a message names, however broken it is."""

import pytest

from churn_platform.decoding.named_customers import named_customers
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"CustomerId": 42, "Age": 7}', {42}),
        (b'{"CustomerId": "42"}', {42}),
        (b'{"CustomerId": 42.0}', {42}),
        (b'{"timestamp": 1, "data": {"CustomerId": 42}}', {42}),
        (b'{"CustomerId": null, "customer": 42}', {42}),
        (b'{"customer": "42", "Age": 7}', {42, 7}),
        (b'{"CustomerId": 42, "Age": ', {42}),
        (b"bad 42, x42, 42x and 4.2", {42, 4}),
        (b"\xff\xfe 42", {42}),
        (b"[" * 100_000, set()),
        (b"", set()),
        (None, set()),
    ],
)
def test_a_message_of_whole_numbers(payload: bytes | None, expected: set[int]) -> None:
    assert named_customers(payload, BANK) == expected


@pytest.mark.parametrize(
    "payload",
    [b'{"%(id)s": "A-17"}', b'{"data": {"%(id)s": "A-17"}}', b'{"other": "A-17"}', b"text A-17 more", b'"A\\u002d17"'],
)
def test_a_message_of_texts(payload: bytes) -> None:
    schema: CustomerSchema = SUBSCRIBERS
    assert schema.id_type == "text"

    assert "A-17" in named_customers(payload.replace(b"%(id)s", schema.id.encode()), schema)
