"""Decoding of outcomes: any message is either a valid outcome or rejected with a reason."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from churn_platform.decoding.outcomes import Outcome, OutcomeDecoder, RejectedOutcome, outcome_decoder
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.examples import examples


@dataclass(frozen=True)
class Message:
    """A message as the consumer returns it."""

    content: bytes | None
    milliseconds: int
    kind: int = TIMESTAMP_CREATE_TIME

    def value(self) -> bytes | None:
        return self.content

    def partition(self) -> int | None:
        return 0

    def offset(self) -> int | None:
        return 0

    def timestamp(self) -> tuple[int, int]:
        return self.kind, self.milliseconds


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**200), max_value=2**200)
    | st.floats()
    | st.text()
    | st.datetimes(timezones=st.timezones()).map(datetime.isoformat)
    | st.sampled_from(["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-12-31T23:59:60Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "true_churn_label": st.sampled_from([0, 1]) | ANYTHING,
        "event_id": st.text(min_size=1, max_size=220) | ANYTHING,
        "CustomerId": st.integers(min_value=0, max_value=2**62) | ANYTHING,
        "outcome_timestamp": ANYTHING,
        "more": ANYTHING,
    },
)
FROM, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 11, 28, tzinfo=UTC)


@given(
    value=st.none() | st.binary(max_size=200) | FIELDS.map(lambda fields: json.dumps(fields).encode()),
    milliseconds=st.integers(min_value=-(2**63), max_value=2**63 - 1),
    kind=st.sampled_from([TIMESTAMP_NOT_AVAILABLE, TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME]),
)
@hypothesis_settings(max_examples=examples(1_000), deadline=None)
def test_any_message_is_an_outcome_within_bounds_or_rejected_with_a_reason_that_can_be_stored(
    value: bytes | None, milliseconds: int, kind: int, bank_schema: CustomerSchema
) -> None:
    found = outcome_decoder(bank_schema).decode(Message(value, milliseconds, kind), FROM, UNTIL)

    if isinstance(found, Outcome):
        assert FROM <= found.outcome_timestamp <= UNTIL
        assert found.outcome_timestamp.utcoffset() == timedelta(0)
        assert found.churned in (0, 1)
        assert found.customer_id is None or (isinstance(found.customer_id, int) and 0 <= found.customer_id <= 2**62)
    else:
        assert found.reason
        assert found.reason.isprintable()
        assert found.payload == value


def test_an_id_that_is_text_is_a_text_in_the_field_of_its_column() -> None:
    schema = CustomerSchema(
        name="subscribers",
        id="Subscriber no.",
        target="Left",
        columns=(Column(name="Subscriber no.", kind="text", max_length=8), Column(name="Left", kind="flag")),
    )
    decoder = OutcomeDecoder(schema)

    def decoded(customer: object) -> Outcome | RejectedOutcome:
        value = json.dumps({"true_churn_label": 1, "Subscriber no.": customer}).encode()
        return decoder.decode(Message(value, round(FROM.timestamp() * 1000)), FROM, UNTIL)

    def reason(customer: object) -> str:
        rejected = decoded(customer)
        assert isinstance(rejected, RejectedOutcome)
        return rejected.reason

    accepted = decoded("C-000123")
    assert isinstance(accepted, Outcome)
    assert accepted.customer_id == "C-000123"
    assert reason(123) == "Subscriber no.: expected text of 1 to 8 characters or null, got 123."
    assert "expected text of 1 to 8 characters" in reason("C-0001234")
    assert "neither an event_id nor a Subscriber no." in reason(None)
    assert "U+0000" in reason("C\0")
