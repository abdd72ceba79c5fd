"""Files: those of others are read within bounds, or refused in one line; ours are written whole."""
