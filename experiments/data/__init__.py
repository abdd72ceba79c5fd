"""Training images: which source, decoded once, then shuffled, flipped and batched.

load(config)      -> Dataset: uint8 images on disk, memory-mapped
split(dataset, k) -> the same, less k images held out for validation; and those k
batches(images)   -> float32 batches in [-1, 1], endless, the batch of step k being
                     a pure function of (images, batch size, seed, k)
"""

from experiments.data.batching import batches
from experiments.data.dataset import Dataset, load, split

__all__ = ["Dataset", "batches", "load", "split"]
