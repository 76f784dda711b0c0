"""The benchmarks with little data: they run, count correctly, and report plausible ratios."""
