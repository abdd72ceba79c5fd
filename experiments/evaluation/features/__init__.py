"""Networks that map images to features, with weights from files."""
