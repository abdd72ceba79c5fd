"""Rendered cars: designs, shapes and a canvas, in NumPy only."""
