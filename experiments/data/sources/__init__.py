"""Sources of images, one module each; and their shared parts: archives, TFDS datasets on disk."""
