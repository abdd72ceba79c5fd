"""A page about a run.

contents -> what its folder holds, within bounds
curves   -> its numbers over the steps, as SVG
page     -> all of it as one HTML file
"""
