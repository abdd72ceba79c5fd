"""The drawn cars: designs, shapes and a canvas, in NumPy alone."""
