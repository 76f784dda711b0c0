"""Scoring of all customers of a file, each once: with risk, band and rank, and reasons for those at high risk.

The file is read in blocks, and each block is scored and explained. What a customer's row of the result needs goes into
a temporary file, because a rank is known only after the last customer. In memory are one block of the file, and about
30 bytes per customer: the risk score, the id or its hash, and the rank.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import numpy as np
import pyarrow as pa

from churn_platform.database.erased_customers import NOBODY, ErasedCustomers
from churn_platform.decoding.fields import CustomerField, customer_fields
from churn_platform.decoding.named_customers import named_customers
from churn_platform.features.columns import is_null
from churn_platform.file_scoring.ranking import bands, may_repeat, ranks
from churn_platform.files.spreadsheets import write_csv
from churn_platform.schema.blocks import CustomerBlock, Rejected, read_blocks, scored_columns
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import EmptyCustomersFileError
from churn_platform.schema.reader import QUARANTINE_COLUMNS
from churn_platform.scoring.contributions import Explainer, Reason
from churn_platform.scoring.high_risk import is_high_risk
from churn_platform.stream.scoring import Champion

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_THREADS: Final = 4
"""XGBoost's threads. Most of the time is Python's and Arrow's, so more of them gain nothing."""


@dataclass(frozen=True)
class RankedBlock:
    """Some scored customers, in the order of the file.

    Attributes:
        customer_id: shape (n,), int64 or objects.
        risk_score: shape (n,), P(churn), 0..1.
        band: shape (n,), places in `ranking.BANDS`.
        rank: shape (n,), from 1, the greatest risk first.
        prediction: shape (n,), 1 where the risk score reaches the model's threshold, else 0.
        left: shape (n,), whether the file says that the customer left already.
        reasons: n lists of reasons; None for a customer who is not at high risk.
        customers: n dictionaries of column name -> value, dates as texts; None for a customer who is not at high risk.
    """

    customer_id: NDArray[Any]
    risk_score: NDArray[np.float32]
    band: NDArray[np.int8]
    rank: NDArray[np.int32]
    prediction: NDArray[np.int16]
    left: NDArray[np.bool_]
    reasons: list[list[Reason] | None]
    customers: list[dict[str, Any] | None]

    def __len__(self) -> int:
        return len(self.customer_id)


@dataclass
class ScoredFile:
    """The scored customers of a file, in a temporary folder.

    Attributes:
        folder: the temporary folder.
        model_version: version of the model that scored them.
        threshold: the model's threshold.
        high_risk_threshold: risk score from which a customer is at high risk.
        scored_at: when the scoring began.
        customers: number of scored customers.
        duplicates: rows of a customer whom an earlier row names with the same risk. They count once.
        rejected: rows that break a rule of the schema, or name an earlier customer with other values.
        erased: rows of erased customers, which are left out.
        counts: number of customers by band, in the order of `ranking.BANDS`.
        seconds: how long the scoring took.
    """

    folder: Path
    model_version: int
    threshold: float
    high_risk_threshold: float
    scored_at: datetime
    customers: int = 0
    duplicates: int = 0
    rejected: int = 0
    erased: int = 0
    counts: tuple[int, ...] = ()
    seconds: float = 0.0
    ranks: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32), repr=False)

    @property
    def rejected_file(self) -> Path:
        """CSV file of the rejected rows: file, row, values, reasons."""
        return self.folder / "rejected.csv"

    @property
    def scores_file(self) -> Path:
        """Arrow file of all scored rows, in the order of the customers file."""
        return self.folder / "scores.arrow"

    def blocks(self) -> Iterator[RankedBlock]:
        """Yield the customers in blocks, at least one customer each."""
        start = 0
        with pa.ipc.open_stream(pa.OSFile(str(self.scores_file))) as stream:
            for batch in stream:
                rank = self.ranks[start : start + batch.num_rows]
                start += batch.num_rows
                kept = rank > 0
                if kept.any():
                    yield self._ranked(batch.filter(pa.array(kept)), rank[kept])

    def _ranked(self, batch: pa.RecordBatch, rank: NDArray[np.int32]) -> RankedBlock:
        risk = batch.column("risk_score").to_numpy()
        return RankedBlock(
            customer_id=batch.column("customer_id").to_numpy(zero_copy_only=False),
            risk_score=risk,
            band=bands(risk, high=self.high_risk_threshold, churn=self.threshold),
            rank=rank,
            prediction=(risk >= self.threshold).astype(np.int16),
            left=batch.column("left").to_numpy(zero_copy_only=False),
            reasons=_parsed(batch.column("reasons")),
            customers=_parsed(batch.column("customer")),
        )


@contextmanager
def score_file(
    place: str,
    schema: CustomerSchema,
    champion: Champion,
    *,
    high_risk_threshold: float,
    erased: ErasedCustomers = NOBODY,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[ScoredFile]:
    """Score the customers of a file and yield the result, which is deleted when the block ends.

    The scores are those of the stream, to the last bit: the same rules, the same types of values, the same transform.

    Args:
        place: a path or an s3:// address of a file or a folder, in any format that training reads. The target may be
            missing.
        schema: of the customers.
        champion: the model, which fits the schema.
        high_risk_threshold: risk score from which a customer gets reasons.
        erased: customers who are left out.
        threads: XGBoost's threads; None for one per processor, at most MAX_THREADS.
        progress: called with the number of customers scored so far.

    Raises:
        CustomersFileError: there is no file, it cannot be read, a column is missing, most values of a column break a
            rule, or no customer is left.
    """
    with tempfile.TemporaryDirectory(prefix="churn-scores-") as folder:
        began = time.monotonic()
        scored = ScoredFile(
            folder=Path(folder),
            model_version=champion.version,
            threshold=champion.bundle.threshold,
            high_risk_threshold=high_risk_threshold,
            scored_at=datetime.now(UTC),
        )
        with scored.rejected_file.open("w", encoding="utf-8", newline="") as rejected:
            write_csv(rejected, QUARANTINE_COLUMNS, ())
            threads = threads or min(MAX_THREADS, os.cpu_count() or 1)
            scoring = _Scoring(schema, champion, high_risk_threshold, erased, threads)
            scores, ids = _score_blocks(place, scoring, scored, rejected, progress)
            kept = _first_rows(scored, schema, ids, rejected)
        scored.ranks = ranks(scores, kept)
        scored.customers = int(kept.sum())
        if not scored.customers:
            raise EmptyCustomersFileError(
                f"{place} has no customer who can be scored: all {scored.rejected:,} rows break a rule of the schema.",
                remedy="Correct the file, or the rules in the schema.",
            )
        counted = np.bincount(bands(scores[kept], high=high_risk_threshold, churn=scored.threshold), minlength=3)
        scored.counts = tuple(counted.tolist())
        scored.seconds = time.monotonic() - began
        yield scored


class _Scoring:
    """Scores and explains blocks with one model."""

    def __init__(
        self,
        schema: CustomerSchema,
        champion: Champion,
        high_risk_threshold: float,
        erased: ErasedCustomers,
        threads: int,
    ) -> None:
        self.schema = schema
        self._erased = erased
        self._bundle = champion.bundle
        self._explainer = Explainer(champion.bundle, threads=threads)
        self._threshold = high_risk_threshold
        self._threads = threads
        self._identity, *self._inputs = customer_fields([schema.by_name[name] for name in schema.event_fields])
        self.arrow_schema = pa.schema(
            [
                ("customer_id", pa.int64() if schema.id_type == "bigint" else pa.string()),
                ("risk_score", pa.float32()),
                ("left", pa.bool_()),
                ("reasons", pa.string()),
                ("customer", pa.string()),
                ("file", pa.string()),
                ("row", pa.int64()),
            ]
        )

    def without_erased(self, block: CustomerBlock) -> tuple[CustomerBlock, int]:
        """Return a block without the rows of erased customers, and how many these were."""
        if not self._erased:
            return block, 0
        ids = self._identity.cast(block.columns[self.schema.id])
        kept = ~np.array(self._erased.among(ids.tolist()), np.bool_)
        rejected = [row for row in block.rejected if not self._names_erased(row)]
        left_out = int((~kept).sum()) + len(block.rejected) - len(rejected)
        if not left_out:
            return block, 0
        columns = {name: values[kept] for name, values in block.columns.items()}
        return CustomerBlock(columns, block.left[kept], block.file, block.numbers[kept], rejected), left_out

    def _names_erased(self, row: Rejected) -> bool:
        return any(map(self._erased.__contains__, named_customers(row[2].encode(), self.schema)))

    def score(self, block: CustomerBlock) -> tuple[pa.RecordBatch, list[Rejected]]:
        """Return the scored rows of a block, and those that no event could have."""
        # The types that events of these customers have: float32 where the table has single precision, for example.
        columns = {each.column.name: each.cast(block.columns[each.column.name]) for each in self._inputs}
        ids = self._identity.cast(block.columns[self.schema.id])
        kept, rejected = self._without_unstorable(block, ids, columns)
        if rejected:
            columns, ids = {name: values[kept] for name, values in columns.items()}, ids[kept]
        risk = self._bundle.score(columns, threads=self._threads) if len(ids) else np.empty(0, np.float32)
        risky = np.flatnonzero(is_high_risk(risk, self._threshold))
        of_risky = {name: values[risky] for name, values in columns.items()}
        return pa.record_batch(
            [
                pa.array(ids.astype(np.int64) if self.schema.id_type == "bigint" else ids, self.arrow_schema[0].type),
                pa.array(risk),
                pa.array(block.left[kept]),
                _sparse(self._explainer.reasons(of_risky) if len(risky) else [], risky, len(ids)),
                _sparse(_as_dictionaries(of_risky), risky, len(ids)),
                pa.array([block.file] * len(ids), pa.string()),
                pa.array(block.numbers[kept]),
            ],
            schema=self.arrow_schema,
        ), rejected

    def _without_unstorable(
        self, block: CustomerBlock, ids: NDArray[Any], columns: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[np.bool_], list[Rejected]]:
        """Return which rows the stream would accept, and the others: those with a text that PostgreSQL cannot store."""
        kept = np.ones(len(ids), np.bool_)
        rejected: list[Rejected] = []
        given: list[tuple[CustomerField, NDArray[Any]]] = [(self._identity, ids)]
        given += [(each, columns[each.column.name]) for each in self._inputs]
        for each, values in given:
            for index, reason in each.wrong_values(values):
                if kept[index]:
                    rejected.append((block.file, int(block.numbers[index]), "{}", reason))
                kept[index] = False
        return kept, rejected


def _sparse(values: Sequence[object], places: NDArray[np.intp], count: int) -> pa.Array:
    """Return values as JSON at these places of an array of this length, and null at the others."""
    texts = np.full(count, None, object)
    texts[places] = [json.dumps(each, ensure_ascii=False) for each in values]
    return pa.array(texts, pa.string())


def _parsed(texts: pa.Array) -> list[Any]:
    return [None if each is None else json.loads(each) for each in texts.to_pylist()]


def _as_dictionaries(columns: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Return rows as dictionaries of what JSON can represent, None for missing values."""
    lists = []
    for values in columns.values():
        missing = is_null(values)
        texts = values.astype("datetime64[D]").astype(str) if values.dtype.kind == "M" else values
        known = texts.tolist()
        lists.append([None if null else value for value, null in zip(known, missing.tolist(), strict=True)])
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _score_blocks(
    place: str, scoring: _Scoring, scored: ScoredFile, rejected: TextIO, progress: Callable[[int], None]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Score the whole file into `scores_file`; return the risk scores and the ids, or their hashes, of all rows."""
    scores: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    ids: list[NDArray[Any]] = []
    count = 0
    with pa.ipc.new_stream(str(scored.scores_file), scoring.arrow_schema) as spill:
        for block in read_blocks(place, scored_columns(scoring.schema)):
            others, left_out = scoring.without_erased(block)
            scored.erased += left_out
            rows, unstorable = scoring.score(others)
            wrong = sorted([*others.rejected, *unstorable], key=lambda row: row[1])
            write_csv(rejected, None, wrong)
            scored.rejected += len(wrong)
            if rows.num_rows:
                spill.write_batch(rows)
                scores.append(rows.column("risk_score").to_numpy())
                ids.append(_numbers(rows.column("customer_id")))
                count += rows.num_rows
                progress(count)
    return np.concatenate(scores), np.concatenate(ids) if ids else np.empty(0, np.int64)


def _numbers(ids: pa.Array) -> NDArray[Any]:
    """Return ids that are numbers, and hashes of ids that are texts. Shape (n,)."""
    if pa.types.is_integer(ids.type):
        return np.asarray(ids.to_numpy())
    import polars as pl

    series = pl.from_arrow(ids)
    if not isinstance(series, pl.Series):
        raise TypeError(f"Ids are {type(series).__name__}, expected a column of texts.")
    return series.hash().to_numpy()


def _first_rows(scored: ScoredFile, schema: CustomerSchema, ids: NDArray[Any], rejected: TextIO) -> NDArray[np.bool_]:
    """Return which rows are the first of their customer. Later ones are duplicates, or rejected if their risk differs.

    Most files name each customer once, and their rows are not read again.
    """
    kept = np.ones(len(ids), np.bool_)
    repeated = may_repeat(ids)
    if not len(repeated):
        return kept
    first: dict[Any, float] = {}
    start = 0
    with pa.ipc.open_stream(pa.OSFile(str(scored.scores_file))) as stream:
        for batch in stream:
            begin, end = np.searchsorted(repeated, (start, start + batch.num_rows))
            conflicts: list[Rejected] = []
            for row in batch.take(pa.array(repeated[begin:end] - start)).to_pylist():
                customer, place = row["customer_id"], int(repeated[begin])
                begin += 1
                if customer not in first:
                    first[customer] = row["risk_score"]
                    continue
                kept[place] = False
                if first[customer] == row["risk_score"]:
                    scored.duplicates += 1
                    continue
                because = f"{schema.id} is that of an earlier row with another risk score"
                values = json.dumps({schema.id: str(customer)}, ensure_ascii=False)
                conflicts.append((row["file"], row["row"], values, because))
            write_csv(rejected, None, conflicts)
            scored.rejected += len(conflicts)
            start += batch.num_rows
    return kept
