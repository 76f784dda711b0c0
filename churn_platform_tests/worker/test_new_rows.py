"""New rows are found in the last blocks of the table where these hold all of them, and otherwise in the whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg.conninfo import make_conninfo

from churn_platform.database import stream_batches, worker_positions
from churn_platform.database.new_rows import MARGIN_BLOCKS, NewRows
from churn_platform.database.worker_positions import RowRange
from churn_platform.local.stack import Stack
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team

MANY = 12_000  # rows of a commit that takes more blocks than MARGIN_BLOCKS


@dataclass
class Reader:
    """Reads new rows, and applies each reading."""

    connection: psycopg.Connection
    known: NewRows = field(default_factory=NewRows)

    def read(self, ranges: Sequence[RowRange]) -> int | None:
        """Return the first block of a reading."""
        first, self.known = self.known.read(self.connection, ranges)
        return first


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
    reader = Reader(team.connection)
    assert reader.read(commit_many(team)) is None
    assert reader.read(commit_many(team)) is None
    third = commit_many(team)

    first = reader.read(third)

    assert first is not None
    assert 0 < first < worker_positions.block_count(team.connection) - MARGIN_BLOCKS
    assert found(team.connection, third, first) == MANY


def test_a_reading_that_was_not_applied_is_repeated_from_the_same_block(team: Team) -> None:
    reader = Reader(team.connection)
    for _ in range(2):
        reader.read(commit_many(team))
    not_applied = commit_many(team)
    first, _ = reader.known.read(team.connection, not_applied)
    later = commit(team, Scored(1, 0.9))

    assert first is not None
    assert reader.read([*not_applied, *later]) == first
    assert found(team.connection, [*not_applied, *later], first) == MANY + 1


def test_rows_in_space_that_a_deletion_has_left_are_found(team: Team, stack: Stack) -> None:
    reader = Reader(team.connection)
    for _ in range(3):
        reader.read(commit_many(team))
    team.connection.execute("delete from churn_predictions where kafka_offset < %s", (MANY // 2,))
    with psycopg.connect(make_conninfo(stack.owner_dsn, dbname=team.connection.info.dbname), autocommit=True) as owner:
        owner.execute("vacuum churn_predictions")

    ranges = commit(team, *(Scored(number, 0.9) for number in range(5)))

    assert reader.read(ranges) is None
    assert found(team.connection, ranges, None) == 5
    for _ in range(2):  # these fill the space
        reader.read(commit_many(team))
    assert reader.read(commit(team, Scored(9, 0.9))) is not None


def test_a_replay_of_the_batch_leads_to_reading_all_of_it(team: Team) -> None:
    reader = Reader(team.connection)
    for _ in range(3):
        reader.read(commit_many(team))
    stream_batches.record_replay(
        team.connection,
        team.ledger.batch,
        events=3 * MANY,
        predictions=3 * MANY - 1,
        dead_letters=1,
        duplicates=0,
        erased=0,
        model_version=2,
    )

    assert reader.read(commit(team, Scored(1, 0.9))) is None
    assert reader.read(commit(team, Scored(2, 0.9))) is not None


def test_a_new_batch_is_read_from_the_last_blocks_too(team: Team) -> None:
    reader = Reader(team.connection)
    for _ in range(3):
        reader.read(commit_many(team))
    before = commit(team, Scored(1, 0.9))
    team.ledger.next_batch()

    assert reader.read([*before, *commit(team, Scored(2, 0.9))]) is not None
