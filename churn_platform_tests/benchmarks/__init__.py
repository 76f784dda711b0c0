"""The benchmarks themselves, each tiny: they run, count right, and no ratio is far from what it should be."""
