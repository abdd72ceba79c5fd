"""Rendered cars: designs, shapes and a canvas, in NumPy only."""

VERSION = "1.0.0"
"""Of the pictures: raise it when a pixel or a label changes, so that no older copy is read."""
