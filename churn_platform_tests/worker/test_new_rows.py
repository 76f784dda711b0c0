"""New rows are found in the last blocks of the table where these hold all of them, and otherwise in the whole batch."""

from collections.abc import Sequence

import psycopg
from psycopg.conninfo import make_conninfo

from churn_platform.database import stream_batches, worker_positions
from churn_platform.database.worker_positions import RowRange
from churn_platform.local.stack import Stack
from churn_platform.worker.new_rows import MARGIN_BLOCKS, NewRows
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team

MANY = 12_000  # rows of a commit that takes more blocks than MARGIN_BLOCKS


def commit_many(team: Team) -> list[RowRange]:
    """Commit many rows of customers without risk; return their ranges."""
    start = team.ledger.position
    team.ledger.fill(MANY)
    return [RowRange(team.ledger.batch, 0, start, team.ledger.position)]


def commit(team: Team, *scored: Scored) -> list[RowRange]:
    """Commit some rows; return their ranges."""
    start = team.ledger.position
    team.ledger.commit(scored)
    return [RowRange(team.ledger.batch, 0, start, team.ledger.position)]


def found(connection: psycopg.Connection, ranges: Sequence[RowRange], first_block: int | None) -> int:
    """Return how many rows of the ranges a reading from this block finds."""
    return worker_positions.count_rows(connection, ranges, first_block=first_block or 0)


def test_only_the_last_blocks_are_read_from_the_third_reading_on(team: Team) -> None:
    rows = NewRows()
    assert rows.first_block(team.connection, commit_many(team)) is None
    assert rows.first_block(team.connection, commit_many(team)) is None
    third = commit_many(team)

    first = rows.first_block(team.connection, third)

    assert first is not None
    assert 0 < first < worker_positions.block_count(team.connection) - MARGIN_BLOCKS
    assert found(team.connection, third, first) == MANY


def test_rows_in_space_that_a_deletion_has_left_are_found(team: Team, stack: Stack) -> None:
    rows = NewRows()
    for _ in range(3):
        rows.first_block(team.connection, commit_many(team))
    team.connection.execute("delete from churn_predictions where kafka_offset < %s", (MANY // 2,))
    with psycopg.connect(make_conninfo(stack.owner_dsn, dbname=team.connection.info.dbname), autocommit=True) as owner:
        owner.execute("vacuum churn_predictions")

    ranges = commit(team, *(Scored(number, 0.9) for number in range(5)))

    assert rows.first_block(team.connection, ranges) is None
    assert found(team.connection, ranges, None) == 5
    for _ in range(2):  # these fill the space
        rows.first_block(team.connection, commit_many(team))
    assert rows.first_block(team.connection, commit(team, Scored(9, 0.9))) is not None


def test_a_replay_of_the_batch_leads_to_reading_all_of_it(team: Team) -> None:
    rows = NewRows()
    for _ in range(3):
        rows.first_block(team.connection, commit_many(team))
    stream_batches.record_replay(
        team.connection,
        team.ledger.batch,
        events=3 * MANY,
        predictions=3 * MANY - 1,
        dead_letters=1,
        duplicates=0,
        model_version=2,
    )

    assert rows.first_block(team.connection, commit(team, Scored(1, 0.9))) is None
    assert rows.first_block(team.connection, commit(team, Scored(2, 0.9))) is not None


def test_a_new_batch_is_read_from_the_last_blocks_too(team: Team) -> None:
    rows = NewRows()
    for _ in range(3):
        rows.first_block(team.connection, commit_many(team))
    before = commit(team, Scored(1, 0.9))
    team.ledger.next_batch()

    assert rows.first_block(team.connection, [*before, *commit(team, Scored(2, 0.9))]) is not None
