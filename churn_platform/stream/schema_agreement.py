"""Whether a model that was trained with one customer schema can score events that were decoded with another. Pure."""

from collections.abc import Iterator

from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.exceptions import SchemaDisagreementError


def require_scorable(model: CustomerSchema, events: CustomerSchema, *, model_version: int, source: str) -> None:
    """Check that events have every value that the model reads, and no value that it has no feature for.

    Columns that the model does not read make no difference.

    Args:
        model: schema that the model was trained with.
        events: schema that the events are decoded with.
        model_version: of the model, for the error message.
        source: of the events, for the error message, such as "the events of batch ...".

    Raises:
        SchemaDisagreementError: it names every column in which they disagree.
    """
    if model.fingerprint == events.fingerprint:
        return
    found = list(disagreements(model, events))
    if found:
        raise SchemaDisagreementError(
            f"Model version {model_version} cannot score {source}, because their customer schemas disagree: "
            f"{'; '.join(found)}.",
            remedy="Materialize the preparation group, churn_model and champion_model with the new schema; the stream "
            "goes on when its model is promoted. Or set CHURN_SCHEMA to the schema that the model was trained with.",
        )


def disagreements(model: CustomerSchema, events: CustomerSchema) -> Iterator[str]:
    """Yield why the model cannot score the events, one text for each column."""
    for name in model.feature_columns:
        expected = model.by_name[name]
        if name not in events.inputs:
            yield f"the events have no {name}"
        else:
            yield from _disagreement(expected, events.by_name[name])


def _disagreement(expected: Column, given: Column) -> Iterator[str]:
    name = given.name
    unknown = [each for each in given.all_categories if each not in expected.all_categories]
    if given.kind != expected.kind:
        yield f"{name} has the kind {given.kind} in events and {expected.kind} in the model"
    elif unknown:
        yield f"{name} may be {' or '.join(unknown)} in events, and the model has no feature for that"
    elif given.scored_if_missing and not expected.scored_if_missing:
        yield f"{name} may be missing from events, and the model cannot replace a missing value"
