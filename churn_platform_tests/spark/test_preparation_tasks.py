"""The tasks of the preparation, one after the other in this process: parts of files are those of the whole files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.features.cleaning import clean
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.files.parquet import from_parquet, read_parquet, to_parquet
from churn_platform.files.stored_frame import StoredFrame
from churn_platform.modeling.prepared import Tables, binned_frame, encoded_frame, imputed_frame, scaled_frame
from churn_platform.modeling.splitting import TEST, TRAIN, rows_of, training_customers, with_split
from churn_platform.schema.blocks import customers_files
from churn_platform.schema.exceptions import HeaderError
from churn_platform.schema.reader import load_customers
from churn_platform.spark import preparation_tasks as tasks
from churn_platform.spark.preparation_order import FileRead, PreparationOrder, Step
from churn_platform_tests.features.customers import BANK
from churn_platform_tests.spark.customers import bank_folder

ROWS = 3_000
PART_ROWS = 400


def order_for(place: Path, folder: Path, *, part_rows: int = PART_ROWS) -> PreparationOrder:
    """Return an order to prepare a file."""
    order = PreparationOrder(
        step=Step.read,
        place=str(place),
        schema=BANK,
        assets=str(folder / "assets"),
        staging=str(folder / "assets/.spark/run"),
        part_rows=part_rows,
        erased=ErasedCustomers(3, b"key", frozenset({b"hash"})),
    )
    found = PreparationOrder.from_json(order.to_json())
    assert found == order
    return found


def typed_files(order: PreparationOrder) -> list[tasks.TypedFile]:
    """Type all files."""
    return [
        tasks.type_file(order, tasks.Source(number, name, str(file)))
        for number, (name, file) in enumerate(customers_files(order.place))
    ]


def repeated_rows(order: PreparationOrder, files: list[tasks.TypedFile]) -> dict[tuple[int, int], tasks.Repeated]:
    """Return the repeated rows of each part, as pandas finds them by the hashes of all rows."""
    rows = []
    for file in files:
        for place in range(len(file.parts)):
            frame = tasks.read_part(order, tasks.TYPED, file.source.number, place)
            first, second = tasks.hashes_of(frame, BANK)
            part = {"file": file.source.number, "place": place, "first": first, "second": second}
            rows.append(pd.DataFrame({**part, "id": frame[BANK.id].to_numpy(), "row": frame[tasks.NUMBER].to_numpy()}))
    keys = pd.concat(rows, ignore_index=True)
    same = keys.duplicated(["id", "first", "second"]).to_numpy()
    conflicting = ~same & keys["id"].where(~same).duplicated().to_numpy()
    found = {}
    for file in files:
        for place in range(len(file.parts)):
            of_part = ((keys["file"] == file.source.number) & (keys["place"] == place)).to_numpy()
            rows_of_part = keys["row"].to_numpy()
            found[file.source.number, place] = tasks.Repeated(
                rows_of_part[of_part & same], rows_of_part[of_part & conflicting]
            )
    return found


def table(order: PreparationOrder, name: str) -> pd.DataFrame:
    """Return the file of an asset."""
    with Path(order.assets, f"{name}.parquet").open("rb") as file:
        return read_parquet(file)


def test_the_customers_of_a_folder_are_those_that_reading_it_at_once_gives(tmp_path: Path) -> None:
    order = order_for(bank_folder(tmp_path / "customers", ROWS), tmp_path)
    files = typed_files(order)
    repeated, parts, above = repeated_rows(order, files), list[tasks.TypedPart](), 0
    for file in files:
        for place in range(len(file.parts)):
            found = repeated[file.source.number, place]
            parts.append(tasks.TypedPart(len(parts), file.source, place, above, found))
        above += file.rows
    raw = [tasks.finish_rows(order, part) for part in parts]
    for name in (tasks.RAW, tasks.QUARANTINED):
        tasks.merge(order, tasks.Merge(name, len(parts), {}, {}))

    expected = load_customers(order.place, BANK)
    assert len(parts) > ROWS // PART_ROWS
    pd.testing.assert_frame_equal(table(order, tasks.RAW), expected.customers, check_exact=True)
    pd.testing.assert_frame_equal(table(order, tasks.QUARANTINED), expected.quarantined)
    assert above == expected.rows
    assert {each.source.name: each.detected for each in files} == expected.detected
    assert sum(each.size_bytes for each in files) == expected.size_bytes
    assert sum(each.customers for each in raw) == len(expected.customers)
    read = FileRead(
        rows=above,
        customers=len(expected.customers),
        quarantined=len(expected.quarantined),
        duplicates=expected.duplicates,
        detected=expected.detected,
        sha256=expected.sha256,
        size_bytes=expected.size_bytes,
        modified=expected.modified,
    )
    assert read.erased == 0
    assert FileRead.from_json(read.to_json()) == read


@pytest.mark.parametrize("part_rows", [1, 7, 5_000])
def test_parts_have_at_most_so_many_rows(tmp_path: Path, part_rows: int) -> None:
    order = order_for(bank_folder(tmp_path / "customers", 120), tmp_path, part_rows=part_rows)

    for file in typed_files(order):
        parts = [tasks.read_part(order, tasks.TYPED, file.source.number, place) for place in range(len(file.parts))]
        assert max(map(len, parts)) <= part_rows
        numbers = np.concatenate([part[tasks.NUMBER].to_numpy() for part in parts])
        assert (np.diff(numbers) > 0).all()
        assert [int(part[tasks.NUMBER].iloc[0]) for part in parts if len(part)] == file.parts[
            : sum(map(bool, map(len, parts)))
        ]


def test_a_file_that_lacks_a_column_is_the_readers_error(tmp_path: Path) -> None:
    file = tmp_path / "customers.csv"
    file.write_text("CustomerId,Age\n1,40\n")

    with pytest.raises(HeaderError, match="lacks the columns"):
        typed_files(order_for(file, tmp_path))


def test_features_of_parts_are_those_of_the_whole_file(tmp_path: Path) -> None:
    order, tables = order_for(bank_folder(tmp_path / "customers", ROWS), tmp_path), Tables(BANK)
    raw = load_customers(order.place, BANK, categorical=True).customers
    for start in range(0, len(raw), PART_ROWS):
        tasks.write_part(order, tasks.RAW, raw.iloc[start : start + PART_ROWS], start // PART_ROWS)
    count = -(-len(raw) // PART_ROWS)
    tasks.merge(order, tasks.Merge(tasks.RAW, count, {"origin": "test"}, {}))
    groups = tasks.groups_of(f"{order.assets}/{tasks.RAW}.parquet")
    assert len(groups) == count
    for group in groups:
        tasks.clean_group(order, group)
    tasks.merge(order, tasks.Merge(tasks.CLEANED, count, {"origin": "test"}, {}))
    groups = tasks.groups_of(f"{order.assets}/{tasks.CLEANED}.parquet")
    churned = [tasks.churned_of(order, group) for group in groups]
    in_train = np.split(training_customers(np.concatenate(churned), BANK), np.cumsum([*map(len, churned)])[:-1])
    for group, members in zip(groups, in_train, strict=True):
        tasks.split_group(order, (group, members))

    split = with_split(clean(raw, BANK), BANK)
    train = rows_of(split, TRAIN)
    imputer, encoder = Imputer.fit(train, BANK), OneHotEncoder.of(BANK)
    ranges = [tasks.transform_part(order, (number, imputer, encoder)) for number in range(count)]
    imputed = imputed_frame(split, imputer, tables)
    scaler = MinMaxScaler.fit(rows_of(imputed, TRAIN), BANK)
    assert {name: joined_range(name, ranges) for name in BANK.scaled} == scaler.ranges
    binned = binned_frame(encoded_frame(imputed, encoder, tables), tables)
    scaled = scaled_frame(binned, scaler, tables)
    for number in range(count):
        tasks.scale_part(order, (number, scaler))
    for name, expected in {
        tasks.CUSTOMERS: split,
        tasks.BINNED: binned,
        tasks.SCALED: scaled,
        tasks.FEATURES[TRAIN]: rows_of(scaled, TRAIN),
        tasks.FEATURES[TEST]: rows_of(scaled, TEST),
    }.items():
        tasks.merge(order, tasks.Merge(name, count, {"origin": "test"}, {}))
        pd.testing.assert_frame_equal(table(order, name), as_objects(expected), check_exact=True)
        assert StoredFrame(f"{order.assets}/{name}.parquet").attrs == {"origin": "test"}


def joined_range(name: str, ranges: list[dict[str, tuple[float, float]]]) -> tuple[float, float]:
    """Return the range of a column in all parts."""
    return min(each[name][0] for each in ranges), max(each[name][1] for each in ranges)


def as_objects(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with texts as objects."""
    return from_parquet(to_parquet(frame))
