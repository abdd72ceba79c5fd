"""Where images come from, a file a source; and what sources share: archives, TFDS on disk."""
