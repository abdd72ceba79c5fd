"""Performance on CPU: forms of convolutions, sums over pixels, and settings of the process."""
