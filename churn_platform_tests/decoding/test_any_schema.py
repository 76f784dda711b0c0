"""Events of any schema: what it allows becomes an event, all else a dead letter that names the column."""

import json
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from churn_platform.decoding.events import EventDecoder
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.decoding.schemas import NULL, schemas, valid_values, wrong_values
from churn_platform_tests.decoding.test_events import EVENT, decoded, message, reason
from churn_platform_tests.examples import examples

WHOLE_BYTES = {"smallint": 2, "integer": 4, "bigint": 8}


def as_json(customer: dict[str, Any]) -> bytes:
    """Return an event of this customer, without the fields that are NULL."""
    return json.dumps(
        {name: value for name, value in customer.items() if value is not NULL}, default=date.isoformat
    ).encode()


def customers(schema: CustomerSchema) -> st.SearchStrategy[dict[str, Any]]:
    """Customers that the schema allows."""
    return st.fixed_dictionaries({name: valid_values(schema.by_name[name]) for name in schema.event_fields})


def expected(column: Column, value: Any) -> Any:
    """Return what the column's array holds for a value: NaN, NaT or None for a missing one."""
    value = None if value is NULL else value
    if column.kind == "date":
        return np.datetime64("NaT" if value is None else value, "s")
    if not column.is_number:
        return value
    if value is None:
        return np.nan
    return np.float32(value) if column.single_precision else float(value) if column.scored_if_missing else value


@given(data=st.data(), schema=schemas())
@hypothesis_settings(max_examples=examples(60), deadline=None)
def test_what_a_schema_allows_is_an_event_with_these_values(data: st.DataObject, schema: CustomerSchema) -> None:
    several = data.draw(st.lists(customers(schema), min_size=1, max_size=3))

    events, dead_letters = decoded(
        *(message(as_json(each), offset=number) for number, each in enumerate(several)), decoder=EventDecoder(schema)
    )

    assert dead_letters == []
    assert events.customer_id.tolist() == [each[schema.id] for each in several]
    assert set(events.customers) == set(schema.inputs)
    for name in schema.inputs:
        column, values = schema.by_name[name], events.customers[name]
        np.testing.assert_array_equal(values, np.array([expected(column, each[name]) for each in several]))
        if column.kind in ("whole", "flag") and not column.scored_if_missing:
            assert (values.dtype.kind, values.itemsize) == ("i", WHOLE_BYTES[column.sql_type])


@given(data=st.data(), schema=schemas())
@hypothesis_settings(max_examples=examples(100), deadline=None)
def test_what_a_schema_refuses_is_a_dead_letter_that_names_the_column(
    data: st.DataObject, schema: CustomerSchema
) -> None:
    customer = data.draw(customers(schema))
    name = data.draw(st.sampled_from(schema.event_fields))
    customer[name] = data.draw(wrong_values(schema.by_name[name]))
    decoder = EventDecoder(schema)

    assert name in reason(as_json(customer), decoder)
    assert name in reason(b'{"timestamp": 1, "data": ' + as_json(customer) + b"}", decoder)


def schema_of(*inputs: Column) -> CustomerSchema:
    """Return a schema with these inputs."""
    identity, target = Column(name="Number", kind="whole"), Column(name="Left", kind="flag")
    return CustomerSchema(name="few", id="Number", target="Left", columns=(identity, *inputs, target))


JOINED = Column(name="Joined on", kind="date", minimum=date(2000, 1, 1), maximum=date(2026, 12, 31), averaged=True)
PLAN = Column(name="Plan", kind="category", categories=("S",), unknown="other", missing="category", averaged=True)
FEE = Column(name="Fee", kind="number", minimum=0.5, missing="median", optional=True, averaged=True)
REGION = Column(name="Region", kind="category", categories=tuple(f"region {n}" for n in range(100)), averaged=True)


@pytest.mark.parametrize(
    ("column", "value", "because"),
    [
        (
            JOINED,
            "1999-12-31",
            "Joined on: expected a date such as 2026-11-24 from 2000-01-01 to 2026-12-31, got 1999-12-31.",
        ),
        (
            JOINED,
            "31.12.2020",
            'Joined on: expected a date such as 2026-11-24 from 2000-01-01 to 2026-12-31, got "31.12.2020".',
        ),
        (PLAN, "", 'Plan: expected text of 1 to 200 characters or null, got "".'),
        (PLAN, "a\0", "Plan holds U+0000, which PostgreSQL cannot store as text."),
        (FEE, 0.25, "Fee: expected a number from 0.5 or null, got 0.25."),
    ],
)
def test_reasons_say_what_was_expected(column: Column, value: object, because: str) -> None:
    assert reason(as_json({"Number": 1, column.name: value}), EventDecoder(schema_of(column))) == because


def test_the_reason_of_an_unknown_category_shows_the_value_however_many_categories_there_are() -> None:
    because = reason(as_json({"Number": 1, "Region": "Atlantis"}), EventDecoder(schema_of(REGION)))

    assert because.startswith('Region: expected "region 0", "region 1", ')
    assert because.endswith('or another of the schema\'s 100 categories, got "Atlantis".')


def test_a_value_below_the_range_in_one_event_refuses_this_event_alone() -> None:
    joined = ["2000-01-01", "1999-12-31", "2026-12-31", "2027-01-01"]
    events, dead_letters = decoded(
        *(message(as_json({"Number": n, "Joined on": each}), offset=n) for n, each in enumerate(joined)),
        decoder=EventDecoder(schema_of(JOINED)),
    )

    assert events.kafka_offset.tolist() == [0, 2]
    assert [each.kafka_offset for each in dead_letters] == [1, 3]


def test_values_are_stored_with_the_precision_of_their_columns(bank_schema: CustomerSchema) -> None:
    events, _ = decoded(message(EVENT), decoder=EventDecoder(bank_schema))

    assert {name: values.dtype.str[1:] for name, values in events.customers.items()} == {
        "CreditScore": "i2",
        "Age": "f4",
        "Tenure": "i2",
        "Balance": "f8",
        "NumOfProducts": "i2",
        "HasCrCard": "i2",
        "IsActiveMember": "i2",
        "EstimatedSalary": "f8",
        "Geography": "O",
        "Gender": "O",
    }
