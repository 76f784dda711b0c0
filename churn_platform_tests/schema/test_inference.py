"""Drafts of a schema from a customers file: valid for any file, and right for files whose schema is known."""

import csv
import io
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import HeaderError, SchemaError
from churn_platform.schema.inference import infer_schema
from churn_platform.schema.reader import load_customers
from churn_platform.schema.toml_file import parse_schema
from churn_platform_tests.examples import examples
from churn_platform_tests.schema.files import BANK, SUBSCRIBERS

ROWS = 200


def draft(path: Path, **given: str) -> tuple[str, CustomerSchema]:
    text = infer_schema(str(path), **given)
    return text, parse_schema(text, origin="the draft")


def table(folder: Path, columns: dict[str, Sequence[object]]) -> Path:
    path = folder / "customers.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def shop(**more: Sequence[object]) -> dict[str, Sequence[object]]:
    """Return a table of customers with other columns."""
    draw = random.Random(1)  # noqa: S311  no secret
    return {
        "Customer": [f"C-{number:04}" for number in range(ROWS)],
        "Orders": [draw.randint(0, 30) for _ in range(ROWS)],
        **more,
        "Churned": ["Yes" if draw.random() < 0.2 else "No" for _ in range(ROWS)],
    }


@pytest.mark.parametrize(
    ("known", "file"),
    [(BANK, "data/raw/ChurnModelling.csv"), (SUBSCRIBERS, "data/subscribers/subscribers.csv")],
    ids=["bank", "subscribers"],
)
def test_the_draft_of_a_known_file_has_its_id_target_and_kinds_and_quarantines_nothing(
    known: CustomerSchema, file: str
) -> None:
    text, schema = draft(Path(file))
    loaded = load_customers(file, schema)

    assert (schema.id, schema.target, schema.left) == (known.id, known.target, known.left)
    assert loaded.quarantined.empty
    assert loaded.customers[schema.target].equals(load_customers(file, known).customers[known.target])
    same = {"whole": {"whole"}, "number": {"whole", "number"}, "flag": {"flag"}, "category": {"category"}}
    for name in (*known.numeric_inputs, *known.categorical_inputs, *known.date_inputs):
        drafted, column = schema.column(name), known.column(name)
        assert drafted.kind in same.get(column.kind, {column.kind})
        assert drafted.transforms
        if column.kind == "category" and column.unknown == "refuse":
            assert drafted.categories == column.categories
    assert "Suspected leak" not in text
    assert schema.money_at_risk is not None


def test_constant_columns_and_row_numbers_are_left_out_by_name(tmp_path: Path) -> None:
    columns = shop(Country=["Peru"] * ROWS, Empty=[""] * ROWS, Row=range(1, ROWS + 1), Half=["x", ""] * (ROWS // 2))
    text, schema = draft(table(tmp_path, columns))

    assert schema.names == ("Customer", "Orders", "Churned")
    assert "# - Country: it has the same value in every row." in text
    assert "# - Empty: it is empty in every row." in text
    assert "# - Row: it numbers the rows." in text
    assert "# - Half: it has the same value in every row that has one." in text


def test_columns_that_predict_the_target_perfectly_are_named_as_suspected_leaks(tmp_path: Path) -> None:
    columns = shop()
    gone = [text == "Yes" for text in columns["Churned"]]
    columns = shop(
        Reason=["moved" if left else "" for left in gone],
        Closed=["2026-01-0" + str(1 + number % 9) if left else "" for number, left in enumerate(gone)],
        Score=[90 + number % 7 if left else number % 80 for number, left in enumerate(gone)],
        Status=[("gone" if number % 2 else "away") if left else "here" for number, left in enumerate(gone)],
        Refund=[number + 0.5 if left else 0 for number, left in enumerate(gone)],
    )
    text, schema = draft(table(tmp_path, columns))

    assert text.count("Suspected leak: alone it predicts perfectly who left") == 4
    assert "Reason: it has the same value" in text
    assert [feature.name for feature in schema.features] == ["Orders"]
    assert load_customers(tmp_path / "customers.csv", schema).quarantined.empty


def test_a_column_that_predicts_well_is_pointed_out_and_used(tmp_path: Path) -> None:
    gone = [text == "Yes" for text in shop()["Churned"]]
    calls = [9 if left and number % 8 else 1 + number % 3 for number, left in enumerate(gone)]
    text, schema = draft(table(tmp_path, shop(Calls=calls)))

    assert "Predicts well who left" in text
    assert "Calls" in schema.feature_names


def test_a_column_that_is_different_in_every_row_is_not_used(tmp_path: Path) -> None:
    phones = [4_900_000 + 7 * number for number in range(ROWS)]
    notes = [f"note {number}" for number in range(ROWS)]
    text, schema = draft(table(tmp_path, shop(Phone=phones, Notes=notes, Name=notes)))

    assert schema.id == "Customer"
    assert "Different in every row, so not used" in text
    assert schema.inputs == ("Orders",)


def test_ranges_have_a_margin_and_missing_values_a_replacement(tmp_path: Path) -> None:
    columns = shop(
        Balance=[-120.5, "", *np.linspace(-10, 800, ROWS - 2)],
        Plan=["A", "", "B", "C", "D"] * (ROWS // 5),
        Joined=["", *[f"2024-0{1 + number % 9}-11" for number in range(ROWS - 1)]],
    )
    _, schema = draft(table(tmp_path, columns))

    balance, plan, joined = (schema.column(name) for name in ("Balance", "Plan", "Joined"))
    assert (balance.minimum, balance.maximum, balance.missing) == (-500, 2_000, "median")
    assert (plan.categories, plan.unknown, plan.missing) == (("A", "B", "C", "D"), "other", "category")
    assert (str(joined.minimum), str(joined.maximum), joined.missing) == ("2023-01-01", "2034-12-31", "median")


def test_a_few_wrong_values_do_not_change_the_kind(tmp_path: Path) -> None:
    amounts: list[object] = [number / 4 for number in range(ROWS)]
    amounts[50] = "unknown"
    _, schema = draft(table(tmp_path, shop(Amount=amounts)))

    assert schema.column("Amount").kind == "number"
    assert load_customers(tmp_path / "customers.csv", schema).quarantined["row"].tolist() == [51]


def test_numbers_with_decimal_commas_are_recognized(tmp_path: Path) -> None:
    path = tmp_path / "kunden.csv"
    rows = [f"{n};{n % 7},25;1.2{n % 9}0,5;{'Ja' if n % 5 else 'Nein'}" for n in range(ROWS)]
    path.write_text("\n".join(["Kundennummer;Gebühr;Umsatz;Treu", *rows]), encoding="cp1252")
    text, schema = draft(path)

    assert "CSV in Windows-1252, separated by semicolons" in text
    assert (schema.id, schema.target) == ("Kundennummer", "Treu")
    assert schema.column("Umsatz").kind == "number"
    assert load_customers(path, schema).customers["Umsatz"].max() == 1_280.5


def test_the_id_the_target_and_its_value_can_be_given(tmp_path: Path) -> None:
    columns = shop(
        Contract=[f"K{number}" for number in range(ROWS)], State=["on", "off", "paused", "off"] * (ROWS // 4)
    )
    _, schema = draft(table(tmp_path, columns), identity="Contract", target="State", left="paused")

    assert (schema.id, schema.target, schema.left) == ("Contract", "State", "paused")
    assert load_customers(tmp_path / "customers.csv", schema).customers["State"].sum() == ROWS / 4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"identity": "No such"}, "has no column No such"),
        ({"target": "Customer"}, "cannot be the target"),
        ({"left": "Maybe"}, "has no value 'Maybe'"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, str], problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        infer_schema(str(table(tmp_path, shop())), **options)


def test_a_file_without_an_id_a_target_or_features_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    for removed, problem in (
        ("Customer", "identifies the customers.*--id"),
        ("Churned", "says whether.*--target"),
        ("Orders", "can be a feature"),
    ):
        columns = {name: values for name, values in shop().items() if name != removed}
        with pytest.raises(SchemaError, match=problem):
            infer_schema(str(table(tmp_path, columns)))


def test_a_column_of_lists_is_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    columns = {name: list(values) for name, values in shop().items()}
    columns["Basket"] = [["milk", "bread"]] * len(columns["Customer"])
    pq.write_table(pa.table(columns), path)

    text, schema = draft(path)
    assert "Basket" not in schema.by_name
    assert "Basket: its values are of type list<" in text


def test_a_repeated_header_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,x,x,left\n1,2,3,0\n")
    with pytest.raises(HeaderError, match="names column x 2 times"):
        infer_schema(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("small", ["5e-324", "3E-324", "2.2250738585072014e-308", "-1e-310", "1e-99"])
def test_numbers_next_to_zero_get_a_range_that_scaling_can_divide_by(tmp_path: Path, small: str) -> None:
    lines = [f"k{number},{[0, small, 0.0][number % 3]},{number // 2 % 2}" for number in range(12)]
    (tmp_path / "a.csv").write_text("\n".join(["the id,tiny,churn", *lines]) + "\n")

    _, schema = draft(tmp_path / "a.csv", identity="the id", target="churn")

    column = schema.by_name["tiny"]
    assert isinstance(column.minimum, int | float)
    assert isinstance(column.maximum, int | float)
    assert column.minimum <= float(small) <= column.maximum
    assert math.isfinite(1 / (column.maximum - column.minimum))


CELLS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "NA", "Yes", "No", "1", "0", "1,5", "2.500", "-3", "1e5", "2024-01-31", "31.12.2023", "[x]", "other"]
    ),
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False).map(repr),
)
NAMES = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=80),
    st.sampled_from(
        ["event_id", "order", "Größe", "avg_risk_score", "hour_timestamp", "a b", "a-b", "A_B", 'say "x"', "x" * 150]
    ),
)


@given(data=st.data())
@settings(max_examples=examples(150), deadline=None)
def test_the_draft_of_any_table_is_valid_and_can_be_read_with(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = data.draw(st.lists(NAMES, min_size=1, max_size=6, unique_by=str.strip))
    names = [name for name in names if name.strip() and name.strip() not in {"the id", "churn", "amount"}]
    rows = data.draw(st.integers(8, 40))
    columns: dict[str, Sequence[object]] = {
        "the id": [f"k{number}" for number in range(rows)],
        "amount": [number % 5 + 1 for number in range(rows)],
        "churn": [number // 3 % 2 for number in range(rows)],
    }
    for name in names:
        pool = data.draw(st.lists(CELLS, min_size=1, max_size=rows))
        columns[name] = [pool[number % len(pool)] for number in range(rows)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_text(buffer.getvalue().replace("\0", ""), encoding="utf-8", errors="replace", newline="")

    _, schema = draft(path, identity="the id", target="churn")
    loaded = load_customers(path, schema)

    assert schema.id == "the id"
    assert loaded.rows == rows


def test_labels_are_proposed_with_abbreviations_in_full(tmp_path: Path) -> None:
    amounts = [number % 40 for number in range(ROWS)]
    text, schema = draft(table(tmp_path, shop(AvgOrderAmt=amounts, **{"x" * 80: amounts})))
    assert 'label = "Average order amount"' in text
    assert schema.column("AvgOrderAmt").title == "Average order amount"
    assert schema.column("x" * 80).label == ""  # it would not fit into the head of a table
