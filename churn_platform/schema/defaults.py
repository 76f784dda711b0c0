"""Rows and seed of the committed customers file, apart from the generator: the command line need not import pandas."""

DEFAULT_ROWS = 10_000
DEFAULT_SEED = 2024  # among a dozen, the seed whose churn by group is nearest the bank's
MAX_ROWS = 10_000_000  # some 3 GB of memory
