"""The data sets that can be generated: schema, rows and seed of the committed file. No imports that take long."""

from dataclasses import dataclass
from typing import Final

MAX_ROWS: Final = 10_000_000  # uses about 3 GB of memory


@dataclass(frozen=True)
class DataSet:
    """A data set of the repository.

    Attributes:
        schema: its schema file, below the project's folder. It names the committed customers file.
        rows: number of rows of the committed file.
        seed: seed of the committed file.
    """

    schema: str
    rows: int
    seed: int


BANK: Final = DataSet(
    schema="data/bank/schema.toml",
    rows=10_000,
    seed=2024,  # of a dozen seeds, the one whose churn by group is closest to the bank's
)
SUBSCRIBERS: Final = DataSet(schema="data/subscribers/schema.toml", rows=6_000, seed=7)
