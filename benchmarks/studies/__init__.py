"""Studies that answer one question each, besides the comparison of `benchmarks.run`."""
