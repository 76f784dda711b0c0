"""Tests, in the order the data flows, on real servers."""
