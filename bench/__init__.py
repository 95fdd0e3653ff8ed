"""How fast and how good: the benchmarks."""
