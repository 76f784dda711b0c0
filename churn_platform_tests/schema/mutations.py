"""Schemas with one thing changed: what a person who writes one may get wrong.

A mutation changes the TOML document of a schema of the repository. It names the key that the error must name, what
the message must contain besides, or nothing if the changed schema is valid.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Mutation:
    """A change to a schema's document.

    Attributes:
        name: what is changed.
        change: changes the document in place.
        key: the key that the error names; empty if the changed schema is valid.
        contains: what the error contains besides, such as the wrong value or the remedy.
    """

    name: str
    change: Callable[[Document], object]
    key: str = ""
    contains: str = ""

    def apply(self, document: Document) -> Document:
        """Return a changed copy."""
        changed = copy.deepcopy(document)
        self.change(changed)
        return changed


def setting(key: str, value: object, *, wrong: str = "", contains: str = "", valid: bool = False) -> Mutation:
    """Return the mutation that sets a key, written with dots; names with dots or spaces are not used here."""
    steps = key.split(".")

    def change(document: Document) -> None:
        for step in steps[:-1]:
            document = document[step]
        document[steps[-1]] = value

    return Mutation(f"{key} = {str(value)[:40]!r}", change, "" if valid else wrong or key, contains)


def removing(key: str, *, wrong: str = "", contains: str = "", valid: bool = False) -> Mutation:
    """Return the mutation that removes a key."""
    steps = key.split(".")

    def change(document: Document) -> None:
        for step in steps[:-1]:
            document = document[step]
        del document[steps[-1]]

    return Mutation(f"without {key}", change, "" if valid else wrong or key, contains)


def renaming(old: str, new: str, *, key: str = "", contains: str = "") -> Mutation:
    """Return the mutation that renames a column, also where the data set names it."""

    def change(document: Document) -> None:
        document["columns"] = {new if name == old else name: table for name, table in document["columns"].items()}
        for role in ("id", "target"):
            if document["data_set"][role] == old:
                document["data_set"][role] = new

    return Mutation(f"{old} renamed {new[:40]!r}", change, key, contains)


def of_every_schema(document: Document) -> Iterator[Mutation]:
    """Yield mutations that are generated from a valid document: each key of each table, removed and of another type."""
    for table, required in (("data_set", ("name", "id", "target", "left")), ("columns", ())):
        yield removing(table, contains="is missing. Add it.")
        yield setting(table, 5, contains="is 5. Expected a table")
        for name in required:
            yield removing(f"{table}.{name}", contains="is missing. Add it.")
    for name, value in document["data_set"].items():
        yield setting(f"data_set.{name}", [value], contains=f"is [{value!r}"[:20])
        yield _with_typo(f"data_set.{name}", name)
    seen: set[str] = set()
    for column, table in document["columns"].items():
        if " " in column:
            continue
        yield setting(f"columns.{column}", "text", contains="Expected a table")
        yield removing(f"columns.{column}.kind", contains="is missing. Add it.")
        for key in table:
            if key in seen:
                continue  # each key once: the columns have the same keys
            seen.add(key)
            place = f"columns.{column}.{key}"
            yield setting(place, {"a": {"b": 1}}, wrong=place)
            yield _with_typo(place, key)


def _with_typo(place: str, key: str) -> Mutation:
    """Return the mutation that adds a key spelled wrong: its first two letters are swapped, and one is doubled."""
    wrong = f"{place.rpartition('.')[0]}.{key[0]}{key[0]}{key[1:]}"
    return setting(wrong, 1, contains=f"is not a key of a schema. Did you mean {key!r}?")


BANK = (
    # Names
    renaming("Age", "Âge"),
    renaming("Age", "年齢"),
    renaming("Age", "select"),
    renaming("Age", "Order"),
    renaming("Age", "user"),
    renaming("Age", "Age of the customer"),
    renaming("Age", "a.b"),
    renaming("Age", "it's"),
    renaming("Age", "int"),
    renaming("Age", "date", key="columns.date.sql_name", contains="Set another sql_name"),
    renaming("Age", "[key]", key='columns."[key]"', contains="without [, ] and <"),
    renaming("Age", "", key='columns.""', contains="Expected a text that is not empty"),
    renaming("Age", " Age", key='columns." Age"', contains="spaces around it"),
    renaming("Age", "A\u0000ge", contains="one line without control characters", key='columns."A'),
    renaming("Age", 'A"ge', key="columns.", contains="no field of an event may contain"),
    renaming("Age", "A\\ge", key="columns.", contains="no field of an event may contain"),
    renaming("Age", "Age [years]", key='columns."Age [years]"', contains="'Age [years]'"),
    renaming("Age", "x" * 52),
    renaming("Age", "x" * 53, key=".sql_name", contains="53 bytes. Expected at most 52"),
    renaming("Age", "é" * 27, key=".sql_name", contains="54 bytes"),
    renaming("Age", "x" * 201, key="columns.", contains="201 characters. Expected at most 200"),
    renaming("Age", "2nd", key="columns.2nd.sql_name", contains="'2nd'"),
    renaming("Age", "!!!", key='columns."!!!".sql_name', contains="letters, digits and underscores"),
    renaming("Age", "batch", key="columns.batch.sql_name", contains="platform's own"),
    renaming("Age", "Risk score", key='columns."Risk score".sql_name', contains="'risk_score'"),
    renaming("Age", "xmin", key="columns.xmin.sql_name", contains="PostgreSQL's"),
    renaming("Age", "event_id", key="columns.event_id", contains="platform's own"),
    renaming("Age", "risk_score", key="columns.risk_score", contains="platform's own"),
    renaming("Age", "split", key="columns.split", contains="headers for its old name"),
    renaming("Age", "balance", key="sql_name", contains="'balance', as that of"),
    renaming("Age", "BALANCE", key="sql_name", contains="as that of"),
    renaming("Age", "Gender_Male", key="columns.Gender", contains="the feature 'Gender_Male'"),
    renaming("Age", "CreditScoreBins", key="columns.CreditScore", contains="feature 'CreditScoreBins'"),
    renaming("CustomerId", "Kundennummer"),
    renaming("CustomerId", "Customer ID (new)"),
    renaming("Exited", "hat gekündigt?"),
    renaming("Exited", "event_timestamp", key="columns.event_timestamp", contains="platform's own"),
    setting("columns.Age.headers", ["Alter", "Âge (années)"], valid=True),
    setting("columns.Age.headers", ["Balance"], wrong="columns.Balance.headers", contains="as 'Age' does"),
    setting("columns.Age.headers", ["Age"], contains="has 'Age'"),
    setting("columns.Age.headers", ["Surname"], contains="'Surname'", wrong="columns.Age.headers"),
    setting("columns.Age.headers", [""], contains="lists ''. Expected a text that is not empty"),
    setting("columns.Age.sql_name", "years_of_age", valid=True),
    setting("columns.Age.sql_name", "Years", contains="'Years'. Set it to lower case"),
    setting("columns.Age.sql_name", "avg_balance", valid=True),
    setting("columns.Tenure.sql_name", "risk", contains="platform's own"),
    setting("columns.Age.sql_name", "x" * 60, contains="Expected at most 52 characters"),
    # The data set
    setting("data_set.name", "Bank customers", contains="'Bank customers'. Expected lower case letters"),
    setting("data_set.name", "", contains="is ''"),
    setting("data_set.id", "Customerid", contains="Did you mean 'CustomerId'?"),
    setting("data_set.id", "Exited", wrong="data_set.target", contains="as the id is"),
    setting("data_set.id", "Balance", wrong="columns.Balance.kind", contains="for the id"),
    setting("data_set.target", "left", contains="is not a column"),
    setting("data_set.target", "Balance", wrong="columns.Balance.kind", contains="for the target"),
    setting("data_set.target", "Firstname", wrong="columns.Firstname.kind", contains="for the target"),
    setting("data_set.left", 0, valid=True),
    setting("data_set.left", 2, contains="is 2. Expected 0 or 1"),
    setting("data_set.left", True, contains="is True. Expected a number, or a text in quotes"),
    setting("data_set.left", "Yes", contains="is 'Yes'. Expected 0 or 1"),
    setting("data_set.currency", "euros", contains="is 'euros'. Expected three capital letters"),
    setting("data_set.customers_file", "a\nb", contains="one line"),
    setting("data_set.delimiter", ";", valid=True),
    setting("data_set.delimiter", ";;", contains="Expected at most 1 characters"),
    setting("data_set.delimiter", '"', contains="Expected another character"),
    setting("data_set.encoding", "latin-1", valid=True),
    setting("data_set.encoding", "utf-9", contains="is 'utf-9'. Expected an encoding"),
    setting("data_set.encoding", "base64", contains="is 'base64'"),
    setting("data_set.decimal", ";", contains="Expected '', '.' or ','"),
    setting("data_set.largest_quarantined_share", 1.5, contains="is 1.5. Expected a number up to 1"),
    setting("data_set.largest_quarantined_share", "0.01", contains="without quotes"),
    setting("data_set.largest_quarantined_share", float("nan"), contains="is nan"),
    setting("data_set.least_roc_auc", 0.4, contains="is 0.4. Expected a number from 0.5"),
    setting("data_set.least_roc_auc", 1, contains="Expected a number below 1"),
    # Kinds and ranges
    setting("columns.Age.kind", "integer", contains="is 'integer'. Expected 'whole', 'number'"),
    setting("columns.Age.kind", "category", contains="is empty", wrong="columns.Age.categories"),
    setting("columns.Age.kind", "date", wrong="columns.Age.minimum", contains="Expected a date"),
    setting("columns.Age.minimum", 130, wrong="columns.Age.maximum", contains="is 120, but the minimum is 130"),
    setting("columns.Age.minimum", "18", contains="is '18'. Expected a number, or a date"),
    setting("columns.Age.minimum", date(2020, 1, 1), contains="is 2020-01-01. Expected a number"),
    setting("columns.Age.minimum", float("inf"), contains="is inf"),
    setting("columns.Age.minimum", 10**400, contains="Expected a number"),
    setting("columns.Age.minimum", -(2**70), valid=True),
    setting("columns.Tenure.maximum", 2**63, contains="Expected a whole number from"),
    setting("columns.Tenure.maximum", 2**60, contains="features are exact up to there"),
    setting("columns.Tenure.maximum", 9.5, contains="is 9.5. Expected a whole number"),
    setting("columns.HasCrCard.minimum", 0, contains="have no range"),
    setting("columns.Geography.maximum", 3, contains="have no range"),
    setting("columns.Geography.unit", "countries", contains="has no unit"),
    setting("columns.Lastname.max_length", 0, contains="is 0. Expected a number from 1"),
    setting("columns.Lastname.max_length", "20", contains="Expected a whole number, without quotes"),
    setting("columns.Age.max_length", 3, contains="has no length"),
    setting("columns.Tenure.single_precision", True, contains="is for the kind 'number'"),
    # Categories
    setting("columns.Geography.categories", [], contains="is empty. List the texts"),
    setting("columns.Geography.categories", "France", contains="is 'France'. Expected a list"),
    setting("columns.Geography.categories", ["France", 3], contains="lists 3. Expected a text in quotes"),
    setting("columns.Geography.categories", ["France", "France"], contains="lists 'France' twice"),
    setting("columns.Geography.categories", ["France "], contains="lists 'France '. Remove the spaces"),
    setting("columns.Geography.categories", ["Fr\nance"], contains="one line"),
    setting("columns.Geography.categories", ["a<b"], wrong="columns.Geography", contains="'Geography_a<b'"),
    setting("columns.Geography.categories", [f"c{n}" for n in range(101)], contains="at most 100, not 101"),
    setting("columns.Geography.categories", ["Îles d'Hyères", "日本"], valid=True),
    setting("columns.Geography.unknown", "other", valid=True),
    setting("columns.Geography.unknown", "ignore", contains="Expected 'refuse' or 'other'"),
    setting("columns.Age.unknown", "other", contains="has no categories"),
    setting("columns.Age.categories", ["young", "old"], contains="has no categories"),
    setting("columns.Gender.spellings", {"F": "Female", "M": "Male"}, valid=True),
    setting("columns.Gender.spellings", {"F": "Femal"}, contains="Did you mean 'Female'?"),
    setting("columns.Gender.spellings", {"Male": "Female"}, contains="a value itself"),
    setting("columns.Gender.spellings", {"": "Female"}, contains="an empty text"),
    setting("columns.HasCrCard.spellings", {"yes": 2}, contains="gives 'yes' the value '2'"),
    setting("columns.HasCrCard.spellings", {"yes": True}, wrong="columns.HasCrCard.spellings.yes", contains="is True"),
    setting("columns.Age.spellings", {"forty": 40}, contains="has no spellings"),
    # Missing values
    setting("columns.Age.missing", "mean", contains="is 'mean'. Expected 'refuse', 'drop'"),
    setting("columns.Age.missing", "mode", contains="has no categories"),
    setting("columns.Geography.missing", "median", contains="has no median"),
    setting("columns.Age.missing", "constant", wrong="columns.Age.constant", contains="is missing"),
    setting("columns.Age.constant", 40, contains='or set missing = "constant"'),
    setting("columns.Age.missing", "ignore", contains="but the column is used"),
    setting("columns.Lastname.missing", "refuse", contains='Set missing = "ignore"'),
    setting("columns.Tenure.optional", True, contains="but a missing value is refused"),
    setting("columns.Tenure.optional", "yes", contains="Expected true or false"),
    setting("columns.CustomerId.missing", "drop", contains="every customer needs an id"),
    setting("columns.CustomerId.optional", True, contains="every customer needs an id"),
    setting("columns.Exited.missing", "median", contains="the target is never replaced"),
    setting("columns.Exited.missing", "drop", valid=True),
    setting("columns.Exited.optional", True, contains="cannot be used for training"),
    setting("columns.Age.counted", True, contains="kind = 'whole' and optional = true"),
    setting("columns.RowNumber.summary", True, wrong="columns.RowNumber.counted", contains="the column is used"),
    # Features
    setting("columns.Age.features", ["min-max"], contains="lists 'min-max'. Expected 'value', 'min_max'"),
    setting("columns.Age.features", "min_max", contains="is 'min_max'. Expected a list"),
    setting("columns.Age.features", ["one_hot"], contains="lists 'one_hot', which a number cannot have"),
    setting("columns.Age.features", ["value", "value"], contains="List each once"),
    setting("columns.Age.features", ["value", "min_max"], contains="either 'value' or 'min_max'"),
    setting("columns.Age.features", ["value", "bands"], wrong="columns.Age.bands", contains="is missing"),
    setting("columns.Age.features", [], valid=True),
    setting("columns.Firstname.features", ["one_hot"], contains="which a text cannot have"),
    setting("columns.CustomerId.features", ["value"], contains="the id is neither a feature"),
    setting("columns.Exited.features", ["value"], contains="the target is neither a feature"),
    setting("columns.Exited.segment", True, contains="the target is neither a feature"),
    setting("columns.CreditScore.features", ["value"], wrong="columns.CreditScore.bands", contains="has no effect"),
    removing("columns.CreditScore.bands", contains="is missing"),
    removing("columns.CreditScore.bands.feature", contains="is missing. Add it. Name of the feature"),
    setting("columns.CreditScore.bands.names", ["Low", "High"], contains="has 2 for 4 upper bounds. Expected 5"),
    setting("columns.CreditScore.bands.names", ["a", "a", "b", "c", "d"], contains="lists 'a' twice"),
    setting("columns.CreditScore.bands.upper_bounds", [580, 570, 740, 800], contains="Expected ascending"),
    setting("columns.CreditScore.bands.upper_bounds", [1, 670, 740, 800], contains="lists 1. Expected a whole number"),
    setting("columns.CreditScore.bands.upper_bounds", [], contains="Expected at least 1, not 0"),
    setting("columns.CreditScore.bands.feature", "Age", wrong="columns.CreditScore", contains="the feature 'Age'"),
    setting("columns.CreditScore.bands.upper", [1], contains="Did you mean 'upper_bounds'?"),
    setting("columns.Age.days_since", date(2020, 1, 1), contains="has no effect"),
    setting("columns.Age.days_since", datetime(2020, 1, 1, 12, tzinfo=UTC), contains="Expected a date without quotes"),
    setting("columns.CreditScore.risk", "down", contains="Expected 'rises' or 'falls'"),
    setting("columns.Geography.risk", "rises", contains="can raise or lower the risk"),
    # Reports
    setting("columns.Age.segment", 1, contains="Expected true or false"),
    setting("columns.Balance.segment", True, wrong="columns.Balance.segment_bounds", contains="is missing"),
    setting("columns.CreditScore.segment", True, wrong="columns.CreditScore.segment_bounds", contains="100 values"),
    setting("columns.Firstname.segment", True, contains="does not divide customers"),
    setting("columns.Age.segment_bounds", [40, 30], contains="Expected ascending"),
    setting("columns.Age.segment_bounds", [10, 30], contains="lists 10. Expected a number from 18"),
    setting("columns.Balance.segment_bounds", [10, 30], contains="or set segment = true"),
    setting("columns.Geography.averaged", True, contains="a category is not a number"),
    setting("columns.Geography.money_at_risk", True, contains="a category is not a number"),
    setting("columns.EstimatedSalary.money_at_risk", True, contains="'Balance' has it, too"),
    setting("columns.Firstname.summary", True, contains="texts are not stored"),
    setting(
        "columns.Age", {"kind": "number", "averaged": True, "sql_name": "risk_score"}, wrong="columns.Age.sql_name"
    ),
    Mutation(
        "no features",
        lambda document: [table.update(features=[], risk="rises") for table in document["columns"].values()],
        "columns: has no column with features",
    ),
    Mutation(
        "two columns",
        lambda document: [document["columns"].pop(name) for name in list(document["columns"])[2:]],
        "columns",
        "Expected at least 3 columns, not 2",
    ),
    Mutation(
        "501 columns",
        lambda document: document["columns"].update({f"c{n}": {"kind": "flag"} for n in range(501)}),
        "columns",
        "Expected at most 500 columns",
    ),
    Mutation(
        "1,100 features",
        lambda document: document["columns"].update(
            {
                f"c{n}": {"kind": "category", "features": ["one_hot"], "categories": [f"v{k}" for k in range(100)]}
                for n in range(11)
            }
        ),
        "columns",
        "makes 1,114 features. Expected at most 1,000",
    ),
    Mutation(
        "averages that collide",
        lambda document: document["columns"].update(
            {"avg_tenure_x": {"kind": "flag", "sql_name": "tenure", "averaged": True}}
        ),
        "columns.avg_tenure_x.sql_name",
        "as that of 'Tenure' is",
    ),
    setting("tables", {}, contains="is not a key of a schema"),
    setting("column", {}, contains="Did you mean 'columns'?"),
)

SUBSCRIBERS = (
    renaming("SubscriberId", "Numéro d'abonné"),
    renaming("Churn", "Left?"),
    renaming("Internet", "Payment_method", key="columns.Payment_method.sql_name", contains="'payment_method', as that"),
    renaming("Payment method", "Payment_method"),
    renaming("DataUsageBand", "DataUsageBand"),
    removing("columns.SubscriberId.max_length", contains="is missing. Expected at most 200 characters for the id"),
    setting("columns.SubscriberId.max_length", 201, contains="is 201. Expected at most 200"),
    setting("columns.SubscriberId.kind", "date", contains="is 'date'. Expected 'whole' or 'text'"),
    setting("columns.SubscriberId.summary", True, contains="the id is neither"),
    setting("columns.SignupDate.minimum", "2010-01-01", contains="Expected a number, or a date such as"),
    setting("columns.SignupDate.minimum", 2010, contains="is 2010. Expected a date"),
    setting("columns.SignupDate.minimum", date(2040, 1, 1), wrong="columns.SignupDate.maximum", contains="2040-01-01"),
    setting("columns.SignupDate.minimum", datetime(2010, 1, 1, tzinfo=UTC), contains="Expected a number, or a date"),
    setting("columns.SignupDate.features", ["value"], contains="Expected 'days_since'"),
    setting("columns.SignupDate.features", [], wrong="columns.SignupDate.days_since", contains="has no effect"),
    removing("columns.SignupDate.days_since", contains="is missing"),
    setting("columns.SignupDate.segment", True, contains="does not divide customers"),
    setting("columns.SignupDate.averaged", True, contains="a date is not a number"),
    setting("columns.SignupDate.summary", True, valid=True),
    setting("columns.SignupDate.headers", ["SignupDateDays"], valid=True),
    setting("columns.LastContact.missing", "constant", contains="not replaced by a constant"),
    setting("columns.LastContact.missing", "drop", valid=True),
    setting("columns.Plan.categories", ["Basic", "other"], valid=True),
    setting("columns.Plan.missing", "mode", valid=True),
    setting("columns.Internet.missing", "constant", wrong="columns.Internet.constant", contains="is missing"),
    setting("columns.PaperlessBilling.spellings", {"Yes": "yes"}, contains="gives 'Yes' the value 'yes'"),
    setting("columns.PaperlessBilling.spellings", {" Yes": 1}, contains="Remove the spaces"),
    setting("columns.PaperlessBilling.spellings", {"1": 0}, contains="a value itself"),
    setting("columns.PaperlessBilling.spellings", ["Yes", "No"], contains="Expected a table"),
    setting("columns.OnlineSecurity.constant", 2, contains="is 2. Expected 0 or 1"),
    setting("columns.OnlineSecurity.constant", "No", contains="is 'No'. Expected 0 or 1"),
    setting("columns.Devices.missing", "category", contains="has no categories"),
    setting("columns.Discount.constant", 101, contains="is 101. Expected a number from 0 to 100"),
    setting("columns.Discount.constant", date(2020, 1, 1), contains="Expected a number, or a text"),
    setting(
        "columns.Discount.missing", "refuse", wrong="columns.Discount.optional", contains="missing value is refused"
    ),
    setting("columns.Notes.averaged", True, contains="a text is not a number"),
    setting("columns.Notes.max_length", 20_000, contains="Expected a number up to 10000"),
    setting("columns.Churn.kind", "text", contains="Expected 'flag', 'whole' or 'category'"),
    setting("columns.MonthlyCharge.segment_bounds", [], contains="Add the lower bounds"),
    setting("columns.TotalCharges.money_at_risk", True, contains="'MonthlyCharge' has it, too"),
    Mutation(
        "a category as target",
        lambda document: (
            document["columns"].update(Churn={"kind": "category", "categories": ["No", "Yes"]}),
            document["data_set"].update(left="Yes"),
        ),
    ),
    Mutation(
        "a category as target, of which none is left",
        lambda document: (
            document["columns"].update(Churn={"kind": "category", "categories": ["No", "Yes"]}),
            document["data_set"].update(left="yes"),
        ),
        "data_set.left",
        "is 'yes'. Did you mean 'Yes'?",
    ),
    Mutation(
        "a category as target, and all left",
        lambda document: (
            document["columns"].update(Churn={"kind": "category", "categories": ["Yes"]}),
            document["data_set"].update(left="Yes"),
        ),
        "columns.Churn.categories",
        "List at least two",
    ),
)
