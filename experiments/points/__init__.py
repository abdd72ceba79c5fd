"""The swiss roll: diffusion of points in the plane, easy to plot and to measure."""
