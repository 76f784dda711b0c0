"""What is derived from a customer schema, and its JSON."""

import dataclasses
from datetime import date

import pytest

from churn_platform.schema.columns import Band, Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT

BANK = load_schema(PROJECT_ROOT / "data/bank/schema.toml")
SUBSCRIBERS = load_schema(PROJECT_ROOT / "data/subscribers/schema.toml")
SHOP = CustomerSchema(
    name="shop",
    id="number",
    target="gone",
    columns=(
        Column(name="number", kind="whole", unique=True),
        Column(
            name="spent",
            kind="number",
            minimum=0.5,
            maximum=1e9,
            transforms=("value", "bands"),
            bands=(Band("little", 10.5), Band("much", None)),
            bands_feature="spent_band",
            missing="constant",
            constant=1.5,
        ),
        Column(
            name="since", kind="date", minimum=date(2020, 1, 31), transforms=("days_since",), since=date(2020, 1, 1)
        ),
        Column(name="größe", kind="category", categories=("S", "M"), spellings=(("klein", "S"),), unknown="other"),
        Column(name="gone", kind="flag", minimum=0, maximum=1),
    ),
)
both = pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS, SHOP], ids=lambda schema: schema.name)


def test_the_banks_features_are_the_documented_fourteen_in_order() -> None:
    assert BANK.feature_names == (
        "CreditScore",
        "Age",
        "Tenure",
        "Balance",
        "NumOfProducts",
        "HasCrCard",
        "IsActiveMember",
        "EstimatedSalary",
        "CreditScoreBins",
        "Geography_France",
        "Geography_Germany",
        "Geography_Spain",
        "Gender_Female",
        "Gender_Male",
    )


def test_the_banks_columns_have_the_documented_roles() -> None:
    def names(columns: tuple[Column, ...]) -> list[str]:
        return [column.column for column in columns]

    assert (BANK.id, BANK.id_type, BANK.target) == ("CustomerId", "bigint", "Exited")
    assert BANK.event_fields == (
        "CustomerId",
        "CreditScore",
        "Age",
        "Tenure",
        "Balance",
        "NumOfProducts",
        "HasCrCard",
        "IsActiveMember",
        "EstimatedSalary",
        "Geography",
        "Gender",
    )
    assert names(BANK.stored) == [
        "credit_score",
        "geography",
        "gender",
        "age",
        "tenure",
        "balance",
        "num_of_products",
        "has_cr_card",
        "is_active_member",
        "estimated_salary",
    ]
    assert names(BANK.averaged) == ["age", "balance", "tenure"]
    assert names(BANK.segments) == ["geography", "gender", "age", "num_of_products"]
    assert names(BANK.summary) == ["geography", "gender", "age", "balance"]
    assert BANK.dropped == ("Gender",)
    assert BANK.scaled == ("Balance", "EstimatedSalary", "Age")
    assert BANK.money_at_risk is BANK.column("Balance")


def test_categories_of_missing_and_other_values_have_features_of_their_own() -> None:
    assert SUBSCRIBERS.feature_names[-21:] == (
        "Plan_Basic",
        "Plan_Family",
        "Plan_Premium",
        "Plan_Standard",
        "Plan_other",
        "Contract_Monthly",
        "Contract_One year",
        "Contract_Two years",
        "Payment method_Card",
        "Payment method_Direct debit",
        "Payment method_Invoice",
        "Payment method_Wallet",
        "Payment method_missing",
        "Internet_Cable",
        "Internet_DSL",
        "Internet_Fibre",
        "Region_Centre",
        "Region_East",
        "Region_North",
        "Region_South",
        "Region_West",
    )
    assert SUBSCRIBERS.feature_names[-24:-21] == ("DataUsageBand", "SignupDateDays", "LastContactDays")


@both
def test_every_input_that_has_features_is_in_them_and_no_other(schema: CustomerSchema) -> None:
    assert {feature.column for feature in schema.features} == set(schema.feature_columns)
    assert set(schema.feature_columns) <= set(schema.inputs)
    assert [column.name for column in schema.stored] == sorted(schema.inputs, key=schema.names.index)
    assert not {schema.id, schema.target} & set(schema.inputs)
    assert len(set(schema.feature_names)) == len(schema.feature_names)


@both
def test_a_schema_written_as_json_and_read_again_is_equal(schema: CustomerSchema) -> None:
    again = CustomerSchema.from_json(schema.to_json())

    assert again == schema
    assert again.fingerprint == schema.fingerprint
    assert hash(again) == hash(schema)
    assert again.features == schema.features


@both
def test_every_change_changes_the_fingerprint(schema: CustomerSchema) -> None:
    first, *others = schema.columns
    changed = [
        dataclasses.replace(schema, columns=(dataclasses.replace(first, description="Other."), *others)),
        dataclasses.replace(schema, columns=(*others, first)),
        dataclasses.replace(schema, least_roc_auc=0.9),
        dataclasses.replace(schema, left=0),
    ]

    assert len({schema.fingerprint, *(each.fingerprint for each in changed)}) == 5
    assert schema not in changed


def test_equal_schemas_have_equal_fingerprints_whatever_the_type_of_their_numbers() -> None:
    number, spent, *others = SHOP.columns
    other = dataclasses.replace(
        SHOP, left=1.0, columns=(number, dataclasses.replace(spent, maximum=1_000_000_000), *others)
    )

    assert other == SHOP
    assert other.fingerprint == SHOP.fingerprint


def test_json_keeps_letters_of_every_alphabet() -> None:
    assert "größe" in SHOP.to_json()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"columns": [{}]}', '{"columns": [{"name": "a", "knd": "text"}]}'])
def test_other_json_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        CustomerSchema.from_json(text)
