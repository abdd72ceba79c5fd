"""The parts of training a run that one watches: log, monitor, previews and validation."""
