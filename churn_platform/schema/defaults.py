"""Rows and seed of the committed customers file. Apart from the generator, which imports pandas: the CLI does not."""

DEFAULT_ROWS = 10_000
DEFAULT_SEED = 2024  # of a dozen seeds, the one whose churn by group is closest to the bank's
MAX_ROWS = 10_000_000  # uses about 3 GB of memory
