"""Training a run: the loop, with its log, monitor, previews and validation."""
