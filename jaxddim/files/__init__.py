"""Files that others may have written or damaged: read within bounds, refused in one line."""
