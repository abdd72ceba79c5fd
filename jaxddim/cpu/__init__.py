"""What exists because of processors: forms of convolutions, and settings of the process."""
