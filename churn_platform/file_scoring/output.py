"""Files with the scores of a customers file: CSV, Excel or Parquet, and beside it the rows that were rejected."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from churn_platform.file_scoring.exceptions import ScoreFileError
from churn_platform.file_scoring.ranking import BANDS
from churn_platform.file_scoring.scoring import ScoredFile
from churn_platform.files import artifacts
from churn_platform.files.parquet import COMPRESSION
from churn_platform.files.spreadsheets import MOST_SHEET_ROWS, Cell, TooManyRowsError, write_csv, write_workbook
from churn_platform.scoring.contributions import Reason, reason_as_text

if TYPE_CHECKING:
    from churn_platform.schema.customer_schema import CustomerSchema

COLUMNS: Final = ("risk_score", "risk_band", "rank", "prediction", "model_version", "reasons")
"""Columns of the scores behind the customer's id, which has the name of the schema's column."""


def rejected_place(place: str) -> str:
    """Return where the rejected rows of a file of scores are: scores.parquet.rejected.csv beside scores.parquet.

    The whole name is kept, so that scores.csv and scores.parquet in one folder have different files.
    """
    return f"{place}.rejected.csv"


def require_known_format(place: str) -> None:
    """Check that scores can be written to a file of this name.

    Raises:
        ScoreFileError: its name ends otherwise than in .csv, .xlsx or .parquet.
    """
    if _suffix(place) not in _WRITERS:
        raise ScoreFileError(
            f"{place} does not end with {', '.join(_WRITERS)}, so it is not known how to write it.",
            remedy="Name a file that ends with one of these.",
        )


def write_scores(scored: ScoredFile, schema: CustomerSchema, place: str) -> None:
    """Write the scores, and the rejected rows beside them. Each file appears when it is complete.

    Args:
        scored: the scored customers.
        schema: of the customers.
        place: a path or an s3:// address that ends with .csv, .xlsx or .parquet. A file in S3 is in memory until it is
            complete.

    Raises:
        ScoreFileError: the name ends otherwise, or the file cannot be written.
        TooManyRowsError: the customers do not fit into an Excel sheet.
        ArtifactStoreError: the S3 server rejects the request or cannot be reached.
    """
    require_known_format(place)
    try:
        with scored.rejected_file.open("rb") as source, artifacts.writing(rejected_place(place)) as target:
            shutil.copyfileobj(source, target)
        with artifacts.writing(place) as file:
            _WRITERS[_suffix(place)](file, scored, schema)
    except OSError as error:
        if artifacts.in_s3(place):
            raise
        raise ScoreFileError(
            f"{place} cannot be written: {error.strerror}.", remedy="Name another file with --output."
        ) from error


def _csv(file: BinaryIO, scored: ScoredFile, schema: CustomerSchema) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    write_csv(text, (schema.id, *COLUMNS), _rows(scored))
    text.detach()  # flushes; the file is closed by whoever opened it


def _excel(file: BinaryIO, scored: ScoredFile, schema: CustomerSchema) -> None:
    if scored.customers + 1 > MOST_SHEET_ROWS:
        raise TooManyRowsError(
            f"There are {scored.customers:,} customers, and a sheet of Excel has at most {MOST_SHEET_ROWS:,} rows, its "
            f"header included.",
            remedy="Write a .csv or .parquet file instead.",
        )
    write_workbook(file, (schema.id, *COLUMNS), _rows(scored))


def _parquet(file: BinaryIO, scored: ScoredFile, schema: CustomerSchema) -> None:
    arrow = pa.schema(
        [
            (schema.id, pa.int64() if schema.id_type == "bigint" else pa.string()),
            ("risk_score", pa.float32()),
            ("risk_band", pa.string()),
            ("rank", pa.int32()),
            ("prediction", pa.int16()),
            ("model_version", pa.int32()),
            ("reasons", pa.string()),
        ]
    )
    with pq.ParquetWriter(file, arrow, compression=COMPRESSION) as writer:
        for block in scored.blocks():
            columns = (
                block.customer_id,
                block.risk_score,
                np.array(BANDS, object)[block.band],
                block.rank,
                block.prediction,
                np.full(len(block), scored.model_version, np.int32),
                [_text(reasons) for reasons in block.reasons],
            )
            arrays = [pa.array(values, each.type) for values, each in zip(columns, arrow, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=arrow))


_WRITERS: Final[dict[str, Callable[[BinaryIO, ScoredFile, CustomerSchema], None]]] = {
    ".csv": _csv,
    ".xlsx": _excel,
    ".parquet": _parquet,
}


def _rows(scored: ScoredFile) -> Iterator[tuple[Cell, ...]]:
    for block in scored.blocks():
        yield from zip(
            block.customer_id.tolist(),
            # The shortest numbers that are the same float32 when they are read again.
            map(float, block.risk_score.astype(str).tolist()),
            np.array(BANDS, object)[block.band].tolist(),
            block.rank.tolist(),
            block.prediction.tolist(),
            [scored.model_version] * len(block),
            map(_text, block.reasons),
            strict=True,
        )


def _text(reasons: list[Reason] | None) -> str | None:
    return None if reasons is None else "; ".join(map(reason_as_text, reasons))


def _suffix(place: str) -> str:
    name = place.rpartition("/")[2]
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""
