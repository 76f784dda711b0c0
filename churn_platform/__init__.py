"""Churn platform."""

import gc

# Imports create about 200,000 long-lived objects. Python's garbage collector, which by default runs after every 700 new
# ones, would traverse them repeatedly. This would take a sixth of the time in which a run's process starts.
gc.set_threshold(100_000, 20, 100)
