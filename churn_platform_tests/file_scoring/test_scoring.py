"""Every customer of a file is scored once, with the scores of the stream."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME

from churn_platform.decoding.events import event_decoder
from churn_platform.file_scoring.ranking import BANDS, bands, may_repeat, ranks
from churn_platform.file_scoring.scoring import RankedBlock, score_file
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import EmptyCustomersFileError, WrongValueError
from churn_platform.schema.reader import read_customers
from churn_platform.schema.subscribers import generate_subscribers
from churn_platform.scoring.contributions import Explainer
from churn_platform.stream.scoring import Champion, score
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, cleaned
from churn_platform_tests.file_scoring.conftest import THRESHOLD
from churn_platform_tests.scoring.bundles import FEW_TREES, bundle_of, small_bundle


class Event:
    """A message of the events topic."""

    def __init__(self, content: dict[str, Any], offset: int) -> None:
        self._content, self._offset = json.dumps(content).encode(), offset

    def value(self) -> bytes:
        return self._content

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, 1_790_000_000_000


def scored(place: Path, champion: Champion, schema: CustomerSchema = BANK) -> dict[Any, tuple[float, int]]:
    """Return the risk score and the rank of each customer."""
    with score_file(str(place), schema, champion, high_risk_threshold=THRESHOLD) as found:
        blocks = list(found.blocks())
    return {
        customer: (risk, rank)
        for block in blocks
        for customer, risk, rank in zip(
            block.customer_id.tolist(), block.risk_score.tolist(), block.rank.tolist(), strict=True
        )
    }


def event_of(row: Mapping[Any, Any], schema: CustomerSchema) -> dict[str, Any]:
    """Return the event that a producer sends for a customer."""
    event: dict[str, Any] = {}
    for name in schema.event_fields:
        column, value = schema.by_name[name], row[name]
        if value is None or pd.isna(value):
            event[name] = None
        elif column.kind == "date":
            event[name] = pd.Timestamp(value).date().isoformat()
        else:
            event[name] = int(value) if column.kind in ("whole", "flag") else value
    return event


def scores_of_the_stream(place: Path, champion: Champion, schema: CustomerSchema) -> dict[Any, float]:
    """Return the risk scores of events about the customers of a file."""
    rows = read_customers(place, schema).to_dict("records")
    messages = [Event(event_of(row, schema), number) for number, row in enumerate(rows)]
    events, _ = event_decoder(schema).decode(
        messages,
        topic_id="t",
        accepts_from=datetime(2026, 1, 1, tzinfo=UTC),
        accepts_until=datetime(2030, 1, 1, tzinfo=UTC),
    )
    found = score(events, champion, threads=1)
    return dict(zip(events.customer_id.tolist(), found.risk_score.tolist(), strict=True))


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS], ids=lambda schema: schema.name)
def test_the_scores_are_those_of_the_stream_to_the_last_bit(
    schema: CustomerSchema, customers: pd.DataFrame, tmp_path: Path
) -> None:
    place = tmp_path / "customers.csv"
    raw = customers if schema is BANK else generate_subscribers(2_000, 11)
    raw.to_csv(place, index=False)
    if schema is BANK:
        champion = Champion(7, small_bundle())
    else:
        rows = read_customers(place, schema).dropna(subset=list(schema.dropped)).reset_index(drop=True)
        champion = Champion(7, bundle_of(rows, schema, FEW_TREES))

    found = {customer: risk for customer, (risk, _) in scored(place, champion, schema).items()}

    assert len(found) > 1_900
    assert found == scores_of_the_stream(place, champion, schema)


def test_ranks_begin_with_the_greatest_risk_and_are_complete(file: Path, champion: Champion) -> None:
    found = sorted(scored(file, champion).values(), key=lambda each: each[1])

    assert [rank for _, rank in found] == list(range(1, len(found) + 1))
    assert [risk for risk, _ in found] == sorted((risk for risk, _ in found), reverse=True)


def test_reasons_are_given_to_customers_at_high_risk_only(file: Path, champion: Champion) -> None:
    with score_file(str(file), BANK, champion, high_risk_threshold=THRESHOLD) as found:
        (block,) = found.blocks()
        assert sum(found.counts) == found.customers == len(block)
        assert found.counts[BANDS.index("high")] == (block.risk_score >= THRESHOLD).sum() > 0
        assert found.duplicates == 0

    _require_reasons(block, champion)


def _require_reasons(block: RankedBlock, champion: Champion) -> None:
    explainer = Explainer(champion.bundle)
    for risk, reasons, customer in zip(block.risk_score, block.reasons, block.customers, strict=True):
        assert (reasons is not None) == (customer is not None) == (risk >= THRESHOLD)
        if customer is not None:
            columns = {
                name: np.array([value], object if isinstance(value, str) else np.float64)
                for name, value in customer.items()
            }
            assert reasons == explainer.reasons(columns)[0]


def test_a_customer_of_several_rows_is_scored_once(customers: pd.DataFrame, champion: Champion, tmp_path: Path) -> None:
    complete = customers.dropna(subset=["Gender"]).head(500)
    again, other = complete.head(3), complete.tail(2).assign(Age=30, NumOfProducts=4)
    place = tmp_path / "customers.csv"
    pd.concat([complete, again, other]).to_csv(place, index=False)

    with score_file(str(place), BANK, champion, high_risk_threshold=THRESHOLD) as found:
        ids = np.concatenate([block.customer_id for block in found.blocks()])
        rejected = pd.read_csv(found.rejected_file)

    assert sorted(ids) == sorted(complete["CustomerId"])
    assert (found.customers, found.duplicates, found.rejected) == (500, 3, 2)
    assert rejected["row"].tolist() == [504, 505]
    assert rejected["reasons"].unique().tolist() == ["CustomerId is that of an earlier row with another risk score"]


def test_a_text_that_postgresql_cannot_store_is_rejected_as_the_event_would_be(tmp_path: Path) -> None:
    place = tmp_path / "subscribers.parquet"
    subscribers = generate_subscribers(800, 11)
    subscribers.to_parquet(place)
    rows = read_customers(place, SUBSCRIBERS).dropna(subset=list(SUBSCRIBERS.dropped)).reset_index(drop=True)
    champion = Champion(7, bundle_of(rows, SUBSCRIBERS, FEW_TREES))
    subscribers.loc[0, SUBSCRIBERS.id] = "S\0-1"
    subscribers.to_parquet(place)

    with score_file(str(place), SUBSCRIBERS, champion, high_risk_threshold=THRESHOLD) as found:
        rejected = pd.read_csv(found.rejected_file)

    assert rejected["row"].tolist()[0] == 1
    assert "U+0000" in rejected["reasons"][0]


def test_a_file_without_a_customer_who_can_be_scored_is_an_error(
    customers: pd.DataFrame, champion: Champion, tmp_path: Path
) -> None:
    place = tmp_path / "customers.csv"
    customers.assign(Gender=None).to_csv(place, index=False)

    with (
        pytest.raises(WrongValueError, match="Gender: 2,000 of 2,000 values are missing"),
        score_file(str(place), BANK, champion, high_risk_threshold=THRESHOLD),
    ):
        raise AssertionError("it was scored")
    place.write_text(",".join(customers.columns) + "\n")
    with (
        pytest.raises(EmptyCustomersFileError),
        score_file(str(place), BANK, champion, high_risk_threshold=THRESHOLD),
    ):
        raise AssertionError("it was scored")


def test_nothing_is_left_in_the_temporary_folder(file: Path, champion: Champion) -> None:
    with score_file(str(file), BANK, champion, high_risk_threshold=THRESHOLD) as found:
        assert found.folder.is_dir()

    assert not found.folder.exists()


def test_of_equal_risks_the_first_row_ranks_first() -> None:
    scores = np.array([0.2, 0.9, 0.9, 0.5, 0.9], np.float32)
    kept = np.array([True, True, True, True, False])

    assert ranks(scores, kept).tolist() == [4, 1, 2, 3, 0]


def test_a_band_begins_at_its_threshold() -> None:
    scores = np.array([0.29, 0.3, 0.69, 0.7, 1.0], np.float32)

    found = bands(scores, high=0.7, churn=float(np.float32(0.3)))

    # 0.7 in single precision is a little less than 0.7, as PostgreSQL compares them.
    assert [BANDS[band] for band in found] == ["low", "medium", "medium", "medium", "high"]


def test_rows_whose_id_repeats_are_found() -> None:
    assert may_repeat(np.array([5, 1, 5, 2, 3, 2])).tolist() == [0, 2, 3, 5]
    assert may_repeat(np.array([5, 1])).tolist() == []
    assert may_repeat(np.empty(0, np.int64)).tolist() == []


def test_training_rows_have_the_scores_of_their_file(champion: Champion, tmp_path: Path) -> None:
    rows = cleaned()
    place = tmp_path / "trained.parquet"
    rows.to_parquet(place)

    found = {customer: risk for customer, (risk, _) in scored(place, champion).items()}

    expected = champion.bundle.score({name: rows[name].to_numpy() for name in BANK.feature_columns})
    assert list(found.values()) == expected.tolist()
