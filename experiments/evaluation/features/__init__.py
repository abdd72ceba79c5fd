"""Networks that turn images into features, with their weights from files."""
