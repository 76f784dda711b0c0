"""Benchmarks, run by `make bench-...`. Each starts separate servers."""
