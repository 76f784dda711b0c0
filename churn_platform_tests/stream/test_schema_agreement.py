"""A model scores events of another customer schema if it can, and is refused by name if it cannot."""

from dataclasses import replace

import pytest

from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.exceptions import SchemaDisagreementError
from churn_platform.stream.schema_agreement import disagreements, require_scorable

FEE = Column(name="Fee", kind="number", minimum=0, maximum=100, transforms=("min_max",))
PLAN = Column(name="Plan", kind="category", categories=("S", "M"), transforms=("one_hot",))
CALLS = Column(name="Calls", kind="whole", minimum=0, missing="median", transforms=("value",))
REGION = Column(name="Region", kind="category", categories=("North", "South"), segment=True)


def schema(*inputs: Column) -> CustomerSchema:
    """Return a schema with these inputs."""
    identity, target = Column(name="Number", kind="whole"), Column(name="Left", kind="flag")
    return CustomerSchema(name="few", id="Number", target="Left", columns=(identity, *inputs, target))


TRAINED_WITH = schema(FEE, PLAN, CALLS, REGION)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(TRAINED_WITH, id="the same"),
        pytest.param(
            schema(replace(CALLS, name="Visits", optional=True), FEE, PLAN, CALLS, REGION),
            id="an optional column was added",
        ),
        pytest.param(schema(CALLS, PLAN, FEE), id="a column that is not a feature was removed, and the order changed"),
        pytest.param(schema(replace(FEE, maximum=1_000), PLAN, CALLS), id="a wider range"),
        pytest.param(schema(FEE, replace(PLAN, categories=("S",)), CALLS), id="fewer categories"),
        pytest.param(schema(FEE, PLAN, replace(CALLS, missing="refuse")), id="a value that is required now"),
    ],
)
def test_a_model_scores_events_that_have_all_that_it_reads(events: CustomerSchema) -> None:
    assert list(disagreements(TRAINED_WITH, events)) == []
    require_scorable(TRAINED_WITH, events, model_version=3, source="events")


@pytest.mark.parametrize(
    ("events", "found"),
    [
        (schema(FEE, CALLS), ["the events have no Plan"]),
        (
            schema(replace(FEE, kind="whole"), PLAN, CALLS),
            ["Fee has the kind whole in events and number in the model"],
        ),
        (
            schema(FEE, replace(PLAN, categories=("S", "M", "L")), CALLS),
            ["Plan may be L in events, and the model has no feature for that"],
        ),
        (
            schema(FEE, replace(PLAN, unknown="other"), CALLS),
            ["Plan may be other in events, and the model has no feature for that"],
        ),
        (
            schema(replace(FEE, missing="median"), replace(PLAN, missing="mode"), CALLS),
            [
                "Fee may be missing from events, and the model cannot replace a missing value",
                "Plan may be missing from events, and the model cannot replace a missing value",
            ],
        ),
    ],
)
def test_a_model_that_cannot_score_events_is_refused_by_the_columns_in_which_they_disagree(
    events: CustomerSchema, found: list[str]
) -> None:
    assert list(disagreements(TRAINED_WITH, events)) == found
    with pytest.raises(SchemaDisagreementError, match="Model version 3 cannot score events") as refused:
        require_scorable(TRAINED_WITH, events, model_version=3, source="events")
    assert all(each in str(refused.value) for each in found)
    assert "CHURN_SCHEMA" in refused.value.remedy
