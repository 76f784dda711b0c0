"""Benchmarks, run by `make bench-...`; each starts servers of its own."""
