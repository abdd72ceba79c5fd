"""How a run's checkpoints get onto the disk and back: whole, checked, and flushed."""
