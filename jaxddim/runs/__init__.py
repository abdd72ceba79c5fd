"""A run: its configuration, what is built from it, its checkpoints, and images drawn from it."""
