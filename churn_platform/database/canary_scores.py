"""The table canary_scores: predictions since the start of a canary by risk score, of the canary and of the champion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from churn_platform.database import worker_positions
from churn_platform.database.worker_positions import RowRange

BINS: Final = 100

_ADD: Final = sql.SQL("""
    insert into canary_scores as c (challenger, is_canary, bin, predictions)
    select %(challenger)s, p.model_version = %(model_version)s,
        least(floor(p.risk_score::double precision * {bins}), {bins} - 1), count(*)
    from churn_predictions p {join}
    group by 2, 3
    on conflict (challenger, is_canary, bin) do update set predictions = c.predictions + excluded.predictions
""")


@dataclass(frozen=True)
class Scores:
    """Predictions in each of BINS bins of equal width, by the model that scored them."""

    canary: Sequence[int]
    champion: Sequence[int]


def add(
    connection: psycopg.Connection,
    ranges: Sequence[RowRange],
    *,
    challenger: int,
    model_version: int,
    first_block: int | None,
) -> None:
    """Count the predictions of these ranges, in the transaction that moves the worker's positions.

    Args:
        connection: in a transaction.
        ranges: from worker_positions.row_ranges().
        challenger: the canary.
        model_version: that it tries. Other versions count as the champion's.
        first_block: only rows in this block of the table or a later one; None to read all of the batches.
    """
    if not ranges:
        return
    query = _ADD.format(bins=sql.Literal(BINS), join=worker_positions.join_ranges(first_block=first_block))
    arguments = worker_positions.of_rows(ranges, first_block=first_block)
    # Prepared, PostgreSQL would plan the statement for any block, and read the whole table.
    connection.execute(query, {**arguments, "challenger": challenger, "model_version": model_version}, prepare=False)


def scores(connection: psycopg.Connection, challenger: int) -> Scores:
    """Return what was counted of a canary."""
    canary, champion = [0] * BINS, [0] * BINS
    for is_canary, place, predictions in connection.execute(
        "select is_canary, bin, predictions from canary_scores where challenger = %s", (challenger,)
    ):
        (canary if is_canary else champion)[place] = predictions
    return Scores(canary, champion)
