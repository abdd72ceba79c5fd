"""Foreign weights as runs, runs as foreign weights, and both compared."""
