"""The swiss roll: points that are easy to look at, and to measure."""
